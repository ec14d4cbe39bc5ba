"""Adams-Bashforth methods of order 1 to 4 on any grid: one evaluation a step, whatever the order.

y_{n+1} = y_n + sum_j w_j field_{n-j}, with w_j the exact integral over the step of the Lagrange polynomial through the
last k clock values, so uneven grids need no interpolation (the textbook coefficients assume equal steps).
Start: `euler` ramps the order up with the fields at hand (one evaluation a step; limits the observed order of ab3 and
ab4 to about 2), `rk4` takes Runge-Kutta steps until there are enough fields (three more evaluations each; order k).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.ode import ODE
from adjointdpm.schedules import Grid
from adjointdpm.solvers.base import Solver, SolverState
from adjointdpm.solvers.tableau import RK4

__all__ = ["AdamsBashforth", "adams_weights"]

Number = Any  # float, or 0-dim Tensor


@dataclass(frozen=True)
class AdamsBashforth(Solver):
    """AB-k.

    Args:
        order: k, 1 to 4.
        start: "euler" or "rk4", how the first k - 1 steps are taken.
    """

    order: int
    start: Literal["euler", "rk4"] = "euler"
    nfe_per_step: int = field(default=1, init=False)
    multistep: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise InvalidInput(f"Adams-Bashforth has order 1 to 4 here, got {self.order}")
        if self.start not in ("euler", "rk4"):
            raise InvalidInput(f'start={self.start!r} is unknown; choose "euler" or "rk4"')

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"ab{self.order}"

    def starting(self, n: int) -> bool:
        """Whether step n is a Runge-Kutta step of the start."""
        return self.start == "rk4" and n < self.order - 1

    def step(self, ode: ODE, state: SolverState, n: int, grid: Grid) -> SolverState:
        if self.starting(n):
            y_next, k = RK4.stages(ode, state.y, grid.t[n], grid.t[n + 1])
            return SolverState(y_next, (k[0], *state.history)[: self.order - 1])
        fields = (ode.field(state.y, grid.t[n], towards=grid.t[n + 1]), *state.history)
        y = state.y
        for weight, f in zip(self.weights(ode, n, grid), fields, strict=True):
            y = y + weight * f
        return SolverState(y, fields[: self.order - 1])

    def weights(self, ode: ODE, n: int, grid: Grid) -> Tensor:
        """Weights of field_n, field_{n-1}, ... in step n: float64 of shape (min(n + 1, k),)."""
        u = ode.clock(grid.t[max(n + 1 - self.order, 0) : n + 2])
        if u.requires_grad:
            *nodes, end = u.unbind()
            return torch.stack(adams_weights(nodes[::-1], end))
        *nodes, end = u.tolist()  # floats: tensors of one element cost a hundred times as much here
        return torch.tensor(adams_weights(nodes[::-1], end), dtype=torch.float64, device="cpu")

    def nfe(self, grid: Grid) -> int:
        return super().nfe(grid) + 3 * sum(self.starting(n) for n in range(grid.ode_steps))


def adams_weights(nodes: Sequence[Number], end: Number) -> list[Number]:
    """w_j = integral from nodes[0] to `end` of the Lagrange basis polynomial of nodes[j], one weight per node.

    Numbers are floats, or 0-dim float64 tensors where the clock carries a gradient.  With v = u - nodes[0] the factors
    are (v + d_i)/(d_i - d_j), d_i = nodes[0] - nodes[i].  On a monotone grid all d_i have the sign of the step, so the
    polynomial is expanded and integrated without cancellation.
    """
    h, d = end - nodes[0], [nodes[0] - u for u in nodes]
    weights = []
    for j in range(len(d)):
        poly: list[Number] = [1.0]  # coefficients of 1, v, v^2, ...
        for i in range(len(d)):
            if i != j:
                raised, scaled = [0.0, *poly], [*(c * d[i] for c in poly), 0.0]
                poly = [(a + b) / (d[i] - d[j]) for a, b in zip(raised, scaled, strict=True)]
        weights.append(sum(c * h ** (m + 1) / (m + 1) for m, c in enumerate(poly)))
    return weights
