"""O-BELM: a reversible two-step method, whose trajectory can be walked back without having been stored.

Wang et al., "BELM: Bidirectional Explicit Linear Multi-step Sampler for Exact Inversion in Diffusion Models" (2024),
the optimal member.  With h the step to come, H the one before and r = h / H,

    y_{n+1} = r^2 y_{n-1} + (1 - r^2) y_n + h (1 + r) field_n,

of second order, one evaluation a step; solved for y_{n-1} it needs the same field.  The first step is Euler's.

Walking back divides by r^2 at each step, so rounding errors grow by (h_i / h_j)^2 from step j back to step i < j: see
`growth`.  Grids whose steps shrink (logSNR in rho, say) pay for that in the number of steps they can take back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from adjointdpm.ode import ODE
from adjointdpm.schedules import Grid
from adjointdpm.solvers.base import Solver, SolverState

__all__ = ["OBELM"]


@dataclass(frozen=True)
class OBELM(Solver):
    """O-BELM; `history` holds the state one node earlier."""

    name: str = field(default="belm", init=False)
    order: int = field(default=2, init=False)
    nfe_per_step: int = field(default=1, init=False)
    multistep: ClassVar[bool] = True
    reversible: ClassVar[bool] = True

    def step(self, ode: ODE, state: SolverState, n: int, grid: Grid) -> SolverState:
        slope = ode.field(state.y, grid.t[n], towards=grid.t[n + 1])
        if n == 0:
            h = ode.clock(grid.t[1]) - ode.clock(grid.t[0])
            return SolverState(state.y + h * slope, (state.y,))
        squared, weight = self.coefficients(ode, n, grid)
        y = squared * state.history[0] + (1 - squared) * state.y + weight * slope
        return SolverState(y, (state.y,))

    @staticmethod
    def coefficients(ode: ODE, n: int, grid: Grid) -> tuple[Tensor, Tensor]:
        """(r^2, h (1 + r)) of step n >= 1, 0-dim float64."""
        before, now, after = ode.clock(grid.t[n - 1 : n + 2]).unbind()
        ratio = (after - now) / (now - before)
        return ratio**2, (after - now) * (1 + ratio)

    @staticmethod
    def before(y: Tensor, y_next: Tensor, slope: Tensor, squared: Tensor, weight: Tensor) -> Tensor:
        """y_{n-1} from y_n, y_{n+1} and the field at y_n."""
        return (y_next - (1 - squared) * y - weight * slope) / squared

    @staticmethod
    def growth(ode: ODE, grid: Grid) -> float:
        """How much a rounding error of some state can grow on the way back to the start: max over i < j of
        (h_i / h_j)^2."""
        h = ode.clock(grid.t[: grid.ode_steps + 1]).detach().diff().abs()
        if len(h) < 2:
            return 1.0
        return float((h.cummax(0).values / h).max()) ** 2
