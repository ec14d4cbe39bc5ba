"""One cell on one batch of noises: the sample at the end time, and the evaluations counted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import NonFinite
from adjointdpm.models import Denoiser, GuidedDenoiser
from adjointdpm.ode import make_ode
from adjointdpm.sampler import sample
from adjointdpm.schedules import Schedule
from adjointdpm.solvers import RK4
from adjointdpm.tasks.table1.cells import Cell
from adjointdpm.tasks.table1.explicit_adams import explicit_adams

__all__ = ["reference", "solve", "step_ratio"]

STATE = torch.float64  # the network keeps its own number format


def solve(cell: Cell, denoiser: Denoiser, x_T: Tensor, cond: Any) -> tuple[Tensor, int]:
    """(the sample x (B, ...) at the schedule's last time, evaluations counted in the model); no guidance, no graph.

    Raises:
        NonFinite: the cell's solution is not finite.
    """
    grid = cell.grid(denoiser.schedule)
    x_T = x_T.to(STATE)
    with torch.no_grad():
        if cell.solver == "ab4":
            out = sample(denoiser, x_T, cond=cond, grid=grid, solver="ab4", form=cell.form, gradient="full")
            return out.x0, out.stats.nfe
        model = GuidedDenoiser(denoiser, cond, None, 1.0, x_T)
        ode = make_ode(cell.form, model)
        ode.check(grid)
        x = ode.from_state(explicit_adams(ode, x_T, grid)[-1], grid.t[-1])
    if not bool(torch.isfinite(x).all()):
        raise NonFinite(f"the solution of {cell.key} is not finite: check the network's dtype")
    return x, model.counter.nfe


def reference(denoiser: Denoiser, x_T: Tensor, cond: Any, steps: int) -> Tensor:
    """The sample x (B, ...) at the same last time by `steps` classical Runge-Kutta steps, four evaluations each.

    Neither of the table's solvers, and in the angle form neither of its equations: nothing favours a cell.
    """
    with torch.no_grad():
        out = sample(
            denoiser, x_T.to(STATE), cond=cond, steps=steps, spacing="logsnr", to_zero=False, solver=RK4, form="angle",
            gradient="full",
        )  # fmt: skip
    return out.x0


def step_ratio(cell: Cell, schedule: Schedule) -> float:
    """The largest ratio of neighbouring steps in the clock that the cell is solved in: 1 where they are equal."""
    grid = cell.grid(schedule)
    clock = grid.t if cell.form == "raw" else schedule.rho(grid.t)
    h = clock.diff().abs()
    ratio = h[1:] / h[:-1]
    return float(torch.maximum(ratio, 1 / ratio).max())
