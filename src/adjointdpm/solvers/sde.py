"""Stochastic solvers: the reverse SDE in the exponential form, dy = 2 eps-hat drho + sqrt(2 rho) dW, rho falling.

Its marginals are those of the ODE (paper section 2; Song et al. 2021, eq. 6), each step adds noise, and a gradient goes
through the steps with the noise held fixed.  The noise is read from a `BrownianPath`, so it is the same in forward and
backward, for every engine, and at every number of steps: two grids approximate one path, and converge to it.

Both have strong order 1 (the noise does not depend on the state).  A last step to sigma = 0 adds none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.ode import ODE
from adjointdpm.schedules import Grid
from adjointdpm.solvers.base import Solver, SolverState
from adjointdpm.solvers.brownian import BrownianPath

__all__ = ["Ancestral", "EulerMaruyama"]


@dataclass(frozen=True)
class _Stochastic(Solver):
    """What both share.

    Args:
        seed: of the noise: one for the batch, or one for each sample.
    """

    seed: int | Sequence[int] = 0
    order: int = field(default=1, init=False)
    nfe_per_step: int = field(default=1, init=False)
    stochastic: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ("exponential",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", self.path.seed)

    @property
    def path(self) -> BrownianPath:
        return BrownianPath(self.seed if isinstance(self.seed, int) else tuple(self.seed))

    def check(self, ode: ODE, grid: Grid) -> None:
        super().check(ode, grid)
        if len(grid.t) > 1 and float(grid.t[0]) < float(grid.t[-1]):
            raise InvalidInput(f"solver {self.name!r} runs from noise to data only; use an ODE solver, such as 'euler'")
        if grid.t.requires_grad:
            raise InvalidInput(f"times require grad, but solver {self.name!r} reads its noise at fixed times")

    def noise(self, ode: ODE, variance: Callable[[float], float], n: int, grid: Grid, like: Tensor) -> Tensor:
        """The path's increment over step n, in the clock `variance(log rho)`."""
        nodes = ode.clock(grid.t[: grid.ode_steps + 1]).log().tolist()
        return self.path.increment(variance, nodes[-1], nodes[0], nodes[n + 1], nodes[n], like)


@dataclass(frozen=True)
class EulerMaruyama(_Stochastic):
    """y_next = y + 2 (rho' - rho) eps-hat + W(rho^2) - W(rho'^2)."""

    name: str = field(default="euler_maruyama", init=False)

    def step(self, ode: ODE, state: SolverState, n: int, grid: Grid) -> SolverState:
        h = ode.clock(grid.t[n + 1]) - ode.clock(grid.t[n])
        drift = ode.field(state.y, grid.t[n], towards=grid.t[n + 1])
        return SolverState(state.y + 2 * h * drift + self.noise(ode, _square, n, grid, state.y))


@dataclass(frozen=True)
class Ancestral(_Stochastic):
    """Ancestral sampling (DDPM's posterior, "Euler a"): exact if x_0-hat did not change within the step.

    y_next = y + (rho'^2 / rho - rho) eps-hat + rho'^2 (W(rho'^-2) - W(rho^-2)), the noise of variance rho'^2 (rho^2 -
    rho'^2) / rho^2.
    """

    name: str = field(default="ancestral", init=False)

    def step(self, ode: ODE, state: SolverState, n: int, grid: Grid) -> SolverState:
        rho, rho_next = ode.clock(grid.t[n]), ode.clock(grid.t[n + 1])
        drift = ode.field(state.y, grid.t[n], towards=grid.t[n + 1])
        noise = rho_next**2 * self.noise(ode, _inverse_square, n, grid, state.y)
        return SolverState(state.y + (rho_next**2 / rho - rho) * drift + noise)


def _square(log_rho: float) -> float:
    return math.exp(2 * log_rho)


def _inverse_square(log_rho: float) -> float:
    return math.exp(-2 * log_rho)
