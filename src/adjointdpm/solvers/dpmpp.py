"""DPM-Solver++ 2M: second-order multistep in the log-SNR, on the data prediction.

Lu et al., "DPM-Solver++" (2022), algorithm 2.  In the exponential form's state y = x/alpha, with h = lambda_{n+1} -
lambda_n and D the data prediction extrapolated linearly in lambda to the middle of the step,

    y_{n+1} = e^{-h} y_n + (1 - e^{-h}) D,   D = x_0-hat_n + h / (2 h_prev) (x_0-hat_n - x_0-hat_{n-1}).

It is not AB2 in the data clock 1/rho: the extrapolation is in lambda.  The first step is of first order (DDIM), and so
is the last one to sigma = 0 (as for every solver); with fewer than 15 steps also a last one that stops above it, as in
diffusers.  Second order in lambda; no dense history beyond one x_0-hat.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from adjointdpm.ode import ODE
from adjointdpm.schedules import Grid
from adjointdpm.solvers.base import Solver, SolverState

__all__ = ["DPMpp2M"]

FEW_STEPS = 15  # diffusers' limit for `lower_order_final`


@dataclass(frozen=True)
class DPMpp2M(Solver):
    """DPM-Solver++ 2M (midpoint).

    Args:
        lower_order_final: whether the last of fewer than 15 steps is of first order even if it ends above sigma = 0.
    """

    lower_order_final: bool = True
    name: str = field(default="dpmpp2m", init=False)
    order: int = field(default=2, init=False)
    nfe_per_step: int = field(default=1, init=False)
    multistep: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ("exponential",)

    def step(self, ode: ODE, state: SolverState, n: int, grid: Grid) -> SolverState:
        lam = ode.schedule.log_snr(grid.t[max(n - 1, 0) : n + 2])
        h = lam[-1] - lam[-2]
        x0 = ode.model(ode.from_state(state.y, grid.t[n]), grid.t[n]).x0
        data: Tensor = x0
        if state.history and not self._first_order(n, grid):
            ratio = h / (2 * (lam[1] - lam[0]))
            data = (1 + ratio) * x0 - ratio * state.history[0]
        return SolverState(torch.exp(-h) * state.y - torch.expm1(-h) * data, (x0,))

    def _first_order(self, n: int, grid: Grid) -> bool:
        return self.lower_order_final and n == grid.steps - 1 and grid.steps < FEW_STEPS
