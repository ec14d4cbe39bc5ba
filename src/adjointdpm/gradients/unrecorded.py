"""A solve that keeps no graph and computes its own backward: what the adjoint and the reversible engine share.

The forward runs under autograd's eyes as one node.  Its tensors (x, conditioning, guidance, weights) are arguments of
that node, so that autograd sees each of them; backward gets what the forward kept, with the network as it was then.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from adjointdpm.gradients.augmented import differentiated
from adjointdpm.gradients.base import SolveSpec
from adjointdpm.gradients.surroundings import Surroundings
from adjointdpm.solvers import integrate

__all__ = ["UnrecordedSolve", "solve_unrecorded"]


class UnrecordedSolve(ABC):
    """One solve: what forward and backward share, except the tensors that autograd looks after.

    Attributes:
        spec: the solve.
        call, weights: what may be differentiated beside x, see `augmented.differentiated`.
        report: what backward says about itself, for `SolveStats.backward`.
    """

    def __init__(self, spec: SolveSpec, call: list[Tensor], weights: list[Tensor]) -> None:
        self.spec, self.call, self.weights = spec, call, weights
        self.surroundings = Surroundings(spec.model.denoiser.network, [spec.x, *weights[:1]])
        self.report: dict[str, Any] = {}

    @abstractmethod
    def forward(self) -> tuple[Tensor, list[Tensor]]:
        """The sample, and the states that backward needs.  Runs without autograd."""

    @abstractmethod
    def backward(self, g: Tensor, x: Tensor, states: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
        """Gradients for x and for `[*call, *weights]` from g = dL/d sample; `wanted` says which are needed."""


def solve_unrecorded(kind: type[UnrecordedSolve], spec: SolveSpec, **settings: Any) -> Tensor:
    """The sample with one node of autograd behind it, or without any if nothing requires grad."""
    call, weights = differentiated(spec.model)
    if not torch.is_grad_enabled() or not (spec.x.requires_grad or call or weights):
        return integrate(spec.solver, spec.ode, spec.x, spec.grid, spec.on_step)
    solve = kind(spec, call, weights, **settings)
    spec.stats.backward = lambda: dict(solve.report)
    out: Tensor = _Node.apply(solve, spec.x, *call, *weights)  # type: ignore[no-untyped-call]
    return out


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: UnrecordedSolve, x: Tensor, *tensors: Tensor) -> Tensor:
        out, states = solve.forward()
        ctx.solve = solve
        # Weights are watched by `surroundings` instead, so that a change is told by name.
        ctx.save_for_backward(x, *tensors[: len(solve.call)], *states)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: FunctionCtx, g: Tensor) -> tuple[Tensor | None, ...]:
        solve: UnrecordedSolve = ctx.solve  # type: ignore[attr-defined]
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        x, states = saved[0], saved[len(solve.call) + 1 :]
        solve.surroundings.check()
        started = time.perf_counter()
        with solve.surroundings.in_force():
            found = solve.backward(g, x, states, ctx.needs_input_grad[1:])  # type: ignore[attr-defined]
        solve.report["seconds"] = time.perf_counter() - started
        return (None, *found)
