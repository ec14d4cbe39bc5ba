"""Explicit Runge-Kutta methods by Butcher tableau: Euler (= DDIM on the exponential form), Heun, RK4, Dormand-Prince.

One generic stepper; a method is a table.  Stages at intermediate clocks are evaluated at the time the schedule's
inverse gives, and stages at a node at the node's own time.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from adjointdpm.ode import ODE
from adjointdpm.schedules import Grid
from adjointdpm.solvers.base import Solver, SolverState

__all__ = ["DOPRI5", "EULER", "HEUN", "RK4", "RungeKutta"]


@dataclass(frozen=True)
class RungeKutta(Solver):
    """y_next = y + h sum_i b_i k_i,  k_i = field(y + h sum_j a_ij k_j, t(u + c_i h)).

    Attributes:
        name, order: as in `Solver`.
        a, b, c: the tableau; row i of `a` has i entries.
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]

    @property
    def nfe_per_step(self) -> int:  # type: ignore[override]
        return len(self.b)

    def step(self, ode: ODE, state: SolverState, n: int, grid: Grid) -> SolverState:
        y_next, _ = self.stages(ode, state.y, grid.t[n], grid.t[n + 1])
        return SolverState(y_next)

    def stages(
        self, ode: ODE, y: Tensor, t: Tensor, t_next: Tensor, first: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """One step from t to t_next; returns y_next and the fields of all stages.  `first` is the first if known."""
        u = ode.clock(t)
        h = ode.clock(t_next) - u
        k: list[Tensor] = [] if first is None else [first]
        for a_i, c_i in list(zip(self.a, self.c, strict=True))[len(k) :]:
            t_i = t if c_i == 0 else t_next if c_i == 1 else ode.time(u + c_i * h)
            k.append(ode.field(_plus(y, h, a_i, k), t_i, towards=t if c_i == 1 else t_next))
        return _plus(y, h, self.b, k), k


def _plus(y: Tensor, h: Tensor, weights: tuple[float, ...], k: list[Tensor]) -> Tensor:
    """y + h sum_i weights_i k_i; a zero weight costs nothing."""
    for weight, k_i in zip(weights, k, strict=True):
        if weight:
            y = y + (h * weight) * k_i
    return y


EULER = RungeKutta("euler", 1, a=((),), b=(1.0,), c=(0.0,))
HEUN = RungeKutta("heun", 2, a=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 1.0))
RK4 = RungeKutta(
    "rk4",
    4,
    a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 0.5, 0.5, 1.0),
)
#: Dormand and Prince 1980: the six stages of the fifth-order result (`Dopri5` adds the one that estimates errors).
DOPRI5 = RungeKutta(
    "dopri5_fixed",
    5,
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
)
