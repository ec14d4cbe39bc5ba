"""Exact gradients without a stored trajectory: the reversible solver is walked back, one local VJP at each step.

The forward keeps the last two states; backward recovers y_{n-1} from y_n, y_{n+1} and the field at y_n, whose graph
gives the step's vector-Jacobian product as well.  So each network call costs one forward and one forward + VJP, one
graph is alive, and memory does not depend on the number of steps, states included.

    y_{n+1} = r^2 y_{n-1} + (1 - r^2) y_n + w field(y_n)
    a_{n-1} += r^2 a_{n+1},   a_n += (1 - r^2) a_{n+1} + w (d field / d y_n)^T a_{n+1}

States of latents are small beside a network's graph, so `exact` is as good in most cases; this is for states that are
not (video, many samples), and for walking an image back and forth.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NumericalWarning, UnreachedGradient
from adjointdpm.gradients.augmented import Augmented
from adjointdpm.gradients.base import Engine, SolveSpec
from adjointdpm.gradients.unrecorded import UnrecordedSolve, solve_unrecorded
from adjointdpm.solvers import OBELM, SolverState, integrate

__all__ = ["Reversible"]

#: Growth of rounding errors up to which a float64 state keeps the gradient's error below 1e-6 (design section 2).
GROWTH = 1e5


@dataclass(frozen=True)
class Reversible(Engine):
    """Gradients of a reversible solver ("belm"), exact to rounding; the state is float64."""

    name: ClassVar[str] = "reversible"
    exact: ClassVar[bool] = True
    state_dtype: ClassVar[torch.dtype | None] = torch.float64

    def check(self, spec: SolveSpec) -> None:
        super().check(spec)
        if not spec.solver.reversible or not isinstance(spec.solver, OBELM):
            raise InvalidInput(f'gradient="reversible" needs solver="belm", not {spec.solver.name!r}')
        if spec.grid.t.requires_grad:
            raise UnreachedGradient('times require grad, which gradient="reversible" cannot give: use gradient="exact"')
        growth = spec.solver.growth(spec.ode, spec.grid)
        limit = GROWTH * torch.finfo(torch.float64).eps / torch.finfo(spec.x.dtype).eps
        if growth > limit:
            cure = (
                'spacing="uniform" or form="angle" has more even steps, fewer steps or a larger t_end help, and '
                'gradient="exact" works on every grid'
                if spec.x.dtype == torch.float64
                else "the state must be float64"
            )
            raise InvalidInput(
                f"walking back over this grid multiplies rounding errors by {growth:.1e}, where at most {limit:.0e} "
                f"leaves a gradient right to 1e-6 with a {spec.x.dtype} state: {cure}"
            )

    def solve(self, spec: SolveSpec) -> Tensor:
        return solve_unrecorded(_Run, spec)


class _Run(UnrecordedSolve):
    """One solve, walked back."""

    def forward(self) -> tuple[Tensor, list[Tensor]]:
        spec = self.spec
        last = SolverState(spec.ode.to_state(spec.x, spec.grid.t[0]))

        def on_step(n: int, t: Tensor, state: SolverState) -> None:
            nonlocal last
            last = state
            if spec.on_step is not None:
                spec.on_step(n, t, state)

        out = integrate(spec.solver, spec.ode, spec.x, spec.grid, on_step)
        return out, [last.y, *last.history]

    def backward(self, g: Tensor, x: Tensor, states: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
        spec, grid, solver = self.spec, self.spec.grid, self.spec.solver
        assert isinstance(solver, OBELM)
        system = Augmented(spec.ode, self.call, self.weights, wanted[1:])
        ode, end = system.ode, grid.ode_steps
        y_next = states[0]
        if grid.to_zero:
            a = system.data_step(y_next, grid.t[end]).pull(g, 1.0)
        else:
            a = g * ode.scale(grid.t[end])
        b = torch.zeros_like(a)  # the adjoint of the state one node earlier
        y = states[1] if end else y_next
        for n in range(end - 1, 0, -1):
            if spec.on_adjoint is not None:
                spec.on_adjoint(n + 1, a)
            squared, weight = solver.coefficients(spec.ode, n, grid)
            point = system.linearize(y, grid.t[n], towards=grid.t[n + 1])
            if n == end - 1:
                self._check_replay(system, y, n, point.field)
            y, y_next = solver.before(y, y_next, point.field, squared, weight), y
            a, b = b + (1 - squared) * a + weight * point.pull(a, float(weight)), squared * a
        start = spec.ode.to_state(x, grid.t[0])
        if end:
            if spec.on_adjoint is not None:
                spec.on_adjoint(1, a)
            h = float(ode.clock(grid.t[1]) - ode.clock(grid.t[0]))
            a = b + a + h * system.linearize(start, grid.t[0], towards=grid.t[1]).pull(a, h)
            self.report["round_trip"] = float((y - start).norm() / start.norm())
        self.report.update(vjps=system.vjps, nfe=system.counter.nfe)
        return [a / ode.scale(grid.t[0]) if wanted[0] else None, *system.gradients(len(wanted) - 1)]

    def _check_replay(self, system: Augmented, y: Tensor, n: int, field: Tensor) -> None:
        """Warn if the network does not repeat itself bit for bit: its error would be carried back and grow."""
        t, t_next = self.spec.grid.t[n], self.spec.grid.t[n + 1]
        with torch.no_grad():  # as in the forward
            again = system.ode.field(y, t, towards=t_next)
        if not torch.equal(again, field):
            warnings.warn(
                f"the network gave two results for one input that differ by {float((again - field).abs().max()):.1e}: "
                "walking the solver back multiplies such differences, so the gradient is less exact than rounding. "
                'Use deterministic kernels (torch.use_deterministic_algorithms), or gradient="exact"',
                NumericalWarning,
                stacklevel=2,
            )
