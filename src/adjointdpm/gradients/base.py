"""What a gradient engine is: an object that solves the ODE and makes the result differentiable.

Solver, form, grid and model are bound in one frozen `SolveSpec`; the engine alone decides what is kept for backward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from adjointdpm.models import GuidedDenoiser
from adjointdpm.ode import ODE
from adjointdpm.schedules import Grid
from adjointdpm.solvers import Solver, StepCallback

__all__ = ["AdjointCallback", "Engine", "SolveSpec", "SolveStats"]


AdjointCallback = Callable[[int, Tensor], None]


@dataclass
class SolveStats:
    """What a solve cost; an engine fills the backward part once backward has run.

    Attributes:
        nfe: evaluations of the guided field in the forward.
        network_calls: forward calls of the network (two per evaluation with sequential branches).
        sample_evaluations: samples through the network: batch times branches, summed over calls.
        seconds: wall time of the forward.
        backward: called once backward has run: its vector-Jacobian products ("vjps"), network evaluations repeated
            ("recomputations"), and whatever else an engine counts.
    """

    nfe: int = 0
    network_calls: int = 0
    sample_evaluations: int = 0
    seconds: float = 0.0
    backward: Callable[[], dict[str, Any]] = field(default=dict, repr=False)


@dataclass(frozen=True, eq=False)
class SolveSpec:
    """One solve, fully specified.

    Attributes:
        model: `(x, t) -> Prediction` with guidance bound; `model.denoiser.network` is the module that is called.
        ode, solver, grid: the form, the method and the nodes.
        x: (B, ...) the sample at the grid's first node, in the state's dtype; may require grad.
        on_step: called after each step with (node, time, state), or None.
        on_adjoint: called in backward with (node, dL/dy there), from the last node to the first but one, or None.
        stats: filled by the engine.
    """

    model: GuidedDenoiser
    ode: ODE
    solver: Solver
    grid: Grid
    x: Tensor
    on_step: StepCallback | None = None
    on_adjoint: AdjointCallback | None = None
    stats: SolveStats = field(default_factory=SolveStats)


class Engine(ABC):
    """A gradient engine.

    Attributes:
        name: its name in the API.
        exact: whether the gradient is that of the sampler that was run (up to rounding).
        state_dtype: the state's dtype if the engine needs one of its own, else None.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    state_dtype: ClassVar[torch.dtype | None] = None

    def check(self, spec: SolveSpec) -> None:
        """Raise InvalidInput if solver, form and engine do not fit together; called once, before any network call."""
        spec.solver.check(spec.ode, spec.grid)
        spec.ode.check(spec.grid)

    @abstractmethod
    def solve(self, spec: SolveSpec) -> Tensor:
        """The sample (B, ...) at the grid's last node, with a graph to whatever requires grad."""
