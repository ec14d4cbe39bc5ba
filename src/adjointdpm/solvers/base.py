"""What a solver is: frozen settings, a state that goes in and comes out, and the loop that drives it.

The state holds all that the next step needs, so an engine can store it, replay it and differentiate it.  Nothing is
remembered between steps in an object.  The loop is here and engines call it, never the reverse.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.ode import ODE
from adjointdpm.schedules import Grid

__all__ = ["Solver", "SolverState", "StepCallback", "integrate"]


class SolverState(NamedTuple):
    """State between steps.

    Attributes:
        y: (B, ...) the ODE's state.
        history: what earlier steps leave to the next ones, newest first (a multistep method's fields, a reversible
            one's state before).
    """

    y: Tensor
    history: tuple[Tensor, ...] = ()


StepCallback = Callable[[int, Tensor, SolverState], None]  # (node n reached, its time, the state there)


class Solver(ABC):
    """A one-step or multistep method for dy/du = field(y, t).

    Attributes:
        name: its name in the API.
        order: order of convergence on a smooth field (strong order of a stochastic one).
        nfe_per_step: evaluations of the field in a step (of a multistep method after its start).
        multistep: whether a step uses what earlier steps left.
        stochastic: whether it draws noise: it then solves the reverse SDE, which has no backward ODE.
        reversible: whether a step can be undone in closed form.
        forms: the ODE forms that it solves.
    """

    name: str
    order: int
    nfe_per_step: int
    multistep: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    reversible: ClassVar[bool] = False
    forms: ClassVar[tuple[str, ...]] = ("raw", "exponential", "angle")

    def check(self, ode: ODE, grid: Grid) -> None:
        """Raise InvalidInput if the solver cannot solve this ODE on this grid; called before any network call."""
        if ode.name not in self.forms:
            raise InvalidInput(
                f"solver {self.name!r} solves form {' or '.join(map(repr, self.forms))}, not {ode.name!r}"
            )

    def init(self, ode: ODE, x: Tensor, grid: Grid) -> SolverState:
        """The state at the grid's first node, from the sample x (B, ...) there."""
        return SolverState(ode.to_state(x, grid.t[0]))

    @abstractmethod
    def step(self, ode: ODE, state: SolverState, n: int, grid: Grid) -> SolverState:
        """From node n to node n + 1, both above sigma = 0.  Pure."""

    def nfe(self, grid: Grid) -> int:
        """Evaluations of the field in a whole solve on `grid`."""
        return grid.ode_steps * self.nfe_per_step + grid.to_zero


def integrate(
    solver: Solver,
    ode: ODE,
    x: Tensor,
    grid: Grid,
    on_step: StepCallback | None = None,
    *,
    recorded_from: int = 0,
) -> Tensor:
    """Solve the ODE over the grid from the sample x (B, ...) at its first node; returns the sample at its last.

    A last step to sigma = 0 is `ode.to_data`, whatever the solver.  Steps before node `recorded_from` run without
    autograd, so no gradient passes them.
    """
    with _recorded(recorded_from <= 0):
        state = solver.init(ode, x, grid)
    for n in range(grid.ode_steps):
        with _recorded(n >= recorded_from):
            state = solver.step(ode, state, n, grid)
        if on_step is not None:
            on_step(n + 1, grid.t[n + 1], state)
    if not grid.to_zero:
        return ode.from_state(state.y, grid.t[-1])
    return ode.to_data(state.y, grid.t[grid.ode_steps])


def _recorded(wanted: bool) -> nullcontext[None] | torch.no_grad:
    return nullcontext() if wanted else torch.no_grad()
