"""Adaptive Dormand-Prince 5(4): steps as large as a tolerance allows.

The grid is found first, without a graph: `Dopri5.accept` takes steps, repeats those whose error estimate is too large,
and returns the nodes that it accepted.  Then every engine solves on these nodes with `DOPRI5`, a fixed-step method, so
the gradient is that of the steps that were taken (their sizes held constant) and a grid can be kept and used again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NotConverged
from adjointdpm.ode import ODE
from adjointdpm.schedules import Grid
from adjointdpm.solvers.base import Solver, SolverState
from adjointdpm.solvers.tableau import DOPRI5

__all__ = ["Dopri5"]

#: Weights of the seven stages in the difference between the fifth-order result and the fourth-order one.
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0


@dataclass(frozen=True)
class Dopri5(Solver):
    """Dormand-Prince 5(4) with its own grid between the first and the last time of the one it is given.

    A step is accepted if max over samples of rms(error / (atol + rtol max(|y|, |y_next|))) <= 1, so a sample does not
    depend on its batch beyond taking smaller steps.

    Args:
        rtol, atol: relative and absolute tolerance on the state of the ODE form.
        max_nfe: evaluations of the field after which the search gives up.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    max_nfe: int = 2000
    name: str = field(default="dopri5", init=False)
    order: int = field(default=5, init=False)
    nfe_per_step: int = field(default=6, init=False)

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise InvalidInput(f"rtol and atol must be >= 0 and not both 0, got {self.rtol} and {self.atol}")
        if self.max_nfe < 7:
            raise InvalidInput(f"max_nfe={self.max_nfe}: one step of dopri5 takes 7 evaluations")

    def check(self, ode: ODE, grid: Grid) -> None:
        super().check(ode, grid)
        if grid.t.requires_grad:
            raise InvalidInput("times require grad, but dopri5 chooses its own: solve with DOPRI5 on a fixed grid")

    def step(self, ode: ODE, state: SolverState, n: int, grid: Grid) -> SolverState:
        return DOPRI5.step(ode, state, n, grid)

    @torch.no_grad()
    def accept(self, ode: ODE, x: Tensor, grid: Grid) -> Grid:
        """The nodes of the accepted steps from the first to the last time of `grid`, then its node at sigma = 0.

        Raises:
            NotConverged: max_nfe evaluations did not suffice; says how far they came.
        """
        if grid.ode_steps == 0:
            return grid
        t, t_last = grid.t[0], grid.t[grid.ode_steps]
        u, u_last = ode.clock(t), ode.clock(t_last)
        y = ode.to_state(x, t)
        slope, spent = ode.field(y, t, towards=t_last), 1
        h = self._first_step(ode, y, slope, t, t_last)
        nodes = [t]
        while True:
            if spent + 6 > self.max_nfe:
                raise NotConverged(
                    f"dopri5 spent {spent} of max_nfe={self.max_nfe} evaluations and has come from "
                    f"t={float(nodes[0]):g} to t={float(t):g} of {float(t_last):g}: loosen rtol={self.rtol:g} and "
                    f"atol={self.atol:g}, raise max_nfe, or take a fixed-step solver"
                )
            last = bool((u + h - u_last).abs() <= 1e-12 * h.abs() or (u + h - u_last) * h > 0)
            t_next = t_last if last else ode.time(u + h)
            h = ode.clock(t_next) - u
            y_next, k = DOPRI5.stages(ode, y, t, t_next, first=slope)
            end = ode.field(y_next, t_next, towards=t_last if not last else t)
            spent += 6
            error = self._error(h, [*k, end], y, y_next)
            if error <= 1:
                t, u, y, slope = t_next, u + h, y_next, end
                nodes.append(t)
                if last:
                    break
            h = h * min(GROW if error <= 1 else 1.0, max(SHRINK, SAFETY * max(error, 1e-10) ** -0.2))
        return Grid.of(ode.schedule, torch.stack(nodes), grid)

    def _error(self, h: Tensor, stages: list[Tensor], y: Tensor, y_next: Tensor) -> float:
        """Largest scaled error of a sample; infinite where the state is not finite."""
        error = sum((h * weight * k for weight, k in zip(ERROR, stages, strict=True) if weight), torch.zeros_like(y))
        scale = self.atol + self.rtol * torch.maximum(y.abs(), y_next.abs())
        found = float((error / scale).flatten(1).square().mean(1).sqrt().max())
        return found if found == found else float("inf")

    def _first_step(self, ode: ODE, y: Tensor, slope: Tensor, t: Tensor, t_last: Tensor) -> Tensor:
        """Hairer, Nørsett and Wanner's first guess without its second evaluation; at most a tenth of the way."""
        way = ode.clock(t_last) - ode.clock(t)
        scale = self.atol + self.rtol * y.abs()
        size, speed = (float((v / scale).square().mean().sqrt()) for v in (y, slope))
        return way * min(0.1, 0.01 * size / (speed * float(way.abs()) or 1.0) if size > 1e-5 else 1e-6)
