"""Solving the adjoint ODE backward over a grid (paper algorithms 1 and 3), by Runge-Kutta or Adams-Bashforth.

`Backward` walks the nodes of the forward grid from data to noise.  The state z at a stage comes from one of two places:

- stored: the forward's states at the nodes, and between nodes the cubic Hermite interpolant of two states and the field
  at them.  Stages share points, so a point's graph serves two products: rk4 costs 3 evaluations and 4 products a step.
  Interpolating was as accurate as solving for z again inside the interval with a fine grid, and 2-4 times more accurate
  with a coarse one (a Gaussian mixture with modes of width 0.3 in 16-D, 10 steps: 2e-2 against 6e-2).
- resolved: z is solved backward together with a (the paper's algorithm).  Only the last state is kept, which saves N
  small states and costs accuracy: z drifts away from where the forward has been.

Multistep: a_next = a - sum_j w_j G_{m-j} keeps G = (dF/dz)^T a of the last steps, but not the weight part of each.
On a fixed grid the quadrature weight of evaluation m over the whole solve is known beforehand, W_m = sum of w_{l,
l-m} over the steps l that use it, so one product at m adds W_m times its weight part and forgets it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adjointdpm.gradients.augmented import Augmented, Linearization
from adjointdpm.schedules import Grid
from adjointdpm.solvers import RK4, AdamsBashforth, RungeKutta

__all__ = ["Backward", "quadrature_weights"]


class Backward:
    """One backward solve.

    Args:
        system: the augmented system.
        grid: the forward's nodes from noise to data, all above sigma = 0.
        states: the forward's states at the nodes, or only the last one if z is to be solved for again.
        resolved: whether z is solved for again.
        on_node: called with each node of the forward's numbering and a there, before the step from it.

    Attributes:
        z: the last node's state that was reached, if resolved.
        local_error: how far each step is from one of another order over the same evaluations, relative to |a|,
            summed.  It is no bound, but wherever it exceeded 2 in our measurements the gradient was off by a tenth or
            more.
    """

    def __init__(
        self,
        system: Augmented,
        grid: Grid,
        states: Sequence[Tensor],
        *,
        resolved: bool,
        on_node: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        self.system, self.ode, self.grid = system, system.ode, grid.reversed()
        self.clock = self.ode.clock(self.grid.t)
        self.states = None if resolved else list(reversed(states))
        self.z = states[-1]
        self.local_error = 0.0
        self._point: Linearization | None = None
        self._on_node = on_node

    def _reached(self, m: int, a: Tensor) -> None:
        if self._on_node is not None:
            self._on_node(self.grid.steps - m, a)

    def solve(self, method: RungeKutta | AdamsBashforth, a: Tensor) -> Tensor:
        """a at the noise end from a = dL/dz at the data end."""
        if isinstance(method, AdamsBashforth):
            return self._adams(method, a)
        for m in range(self.grid.steps):
            self._reached(m, a)
            a, _, _ = self._runge_kutta(method, m, a)
        return a

    def _runge_kutta(
        self, tableau: RungeKutta, m: int, a: Tensor, first_weight: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step from node m of the reversed grid; also F and G at the node itself.

        `first_weight` replaces the quadrature weight of the first stage, where later steps use it too.
        """
        h = float(self.clock[m + 1] - self.clock[m])
        fields: list[Tensor] = []
        pulled: list[Tensor] = []
        for row, b, c, c_next in zip(tableau.a, tableau.b, tableau.c, (*tableau.c[1:], None), strict=True):
            point = self._stage(m, c, h, row, fields)
            weight = -h * b if fields or first_weight is None else first_weight
            # In the stored mode the next stage, or the first one of the next interval, may sit at this very point.
            keep = self.states is not None and (c == c_next or (c_next is None and c == 1))
            pulled.append(point.pull(_plus(a, -h, row, pulled), weight, keep=keep))
            fields.append(point.field)
        if self.states is None:
            self.z = _plus(self.z, h, tableau.b, fields)
        a_next = _plus(a, -h, tableau.b, pulled)
        if tableau.order > 1:
            # Midpoint (order 2) inside rk4, Euler (order 1) inside heun; the power corrects for the lower order.
            lower, power = ((0.0, 1.0, 0.0, 0.0), 5 / 3) if tableau.order == 4 else ((1.0, 0.0), 3 / 2)
            self._note_error(a, a_next, _plus(a, -h, lower, pulled), power)
        return a_next, fields[0], pulled[0]

    def _stage(self, m: int, c: float, h: float, row: Sequence[float], fields: Sequence[Tensor]) -> Linearization:
        """F at stage c of the step from node m."""
        t_from, t_to = self.grid.t[m], self.grid.t[m + 1]
        t = t_from if c == 0 else t_to if c == 1 else self.ode.time(self.clock[m] + c * h)
        towards = t_from if c == 1 else t_to
        if self.states is None:
            return self.system.linearize(_plus(self.z, h, row, fields), t, towards)
        if self._point is None or not self._point.is_at(t, towards):
            self._point = None  # its graph must go before the next one is built
            if c in (0, 1):
                z = self.states[m + int(c)]
            else:
                end = self.system.field(self.states[m + 1], t_to, t_from)
                z = _hermite(c, h, self.states[m], fields[0], self.states[m + 1], end)
            self._point = self.system.linearize(z, t, towards)
        return self._point

    def _adams(self, method: AdamsBashforth, a: Tensor) -> Tensor:
        """Adams-Bashforth over the reversed grid, its own weights for uneven steps."""
        totals = quadrature_weights(method, self)
        pulled: tuple[Tensor, ...] = ()
        fields: tuple[Tensor, ...] = ()
        for m in range(self.grid.steps):
            self._reached(m, a)
            if method.starting(m):
                a, field, pull = self._runge_kutta(RK4, m, a, first_weight=-totals[m])
                fields, pulled = (field, *fields)[: method.order], (pull, *pulled)[: method.order]
                continue
            point = self._stage(m, 0.0, 0.0, (), ())
            pulled = (point.pull(a, -totals[m]), *pulled)[: max(method.order, 2)]
            fields = (point.field, *fields)[: method.order]
            self._point = None
            w = method.weights(self.ode, m, self.grid).tolist()
            if self.states is None:
                self.z = _plus(self.z, 1.0, w, fields[: len(w)])
            a_next = _plus(a, -1.0, w, pulled[: len(w)])
            other = AdamsBashforth(method.order - 1 if method.order > 1 else 2)
            u = other.weights(self.ode, m, self.grid).tolist()
            self._note_error(a, a_next, _plus(a, -1.0, u, pulled[: len(u)]))
            a = a_next
        return a

    def _note_error(self, a: Tensor, a_next: Tensor, other: Tensor, power: float = 1.0) -> None:
        """Adds the difference to a method of another order over the same stages, relative to a."""
        size = torch.maximum(a.norm(), a_next.norm())
        if float(size):
            self.local_error += float((a_next - other).norm() / size) ** power


def quadrature_weights(method: AdamsBashforth, solve: Backward) -> list[float]:
    """W_m: how much the field at node m of the reversed grid counts over all steps of the solve."""
    totals = [0.0] * solve.grid.steps
    for step in range(solve.grid.steps):
        if method.starting(step):
            totals[step] += RK4.b[0] * float(solve.clock[step + 1] - solve.clock[step])
        else:
            for j, w in enumerate(method.weights(solve.ode, step, solve.grid).tolist()):
                totals[step - j] += w
    return totals


def _plus(y: Tensor, h: float, weights: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    for weight, k_i in zip(weights, k, strict=True):
        if weight:
            y = y + (h * weight) * k_i
    return y


def _hermite(c: float, h: float, z: Tensor, f: Tensor, z_end: Tensor, f_end: Tensor) -> Tensor:
    """The cubic through z and z_end with slopes f and f_end, at fraction c of a step h."""
    d = 1 - c
    return d * d * (1 + 2 * c) * z + c * d * d * h * f + c * c * (3 - 2 * c) * z_end - c * c * d * h * f_end
