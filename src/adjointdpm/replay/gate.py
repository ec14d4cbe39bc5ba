"""A gate in front of each differentiated tensor: where the gradients of all calls that used it are gathered.

A tensor that N calls use (the conditioning, the weights) would get N gradients, each already summed over the uses
inside its call, and PyTorch would add them up: another order of additions than plain backprop, so not bit equal.
Instead a call hands the sum so far to its own backward pass as the first summand, and the gate, which PyTorch runs
after all calls, delivers the total.  Every use is then added one after the other, exactly as plain backprop does.

A gate is also how a call learns whether a gradient is wanted at all: `torch.autograd.grad(loss, [z])` never runs the
gate of the weights, so their gradients are not computed.  It holds no tensor, so offloaded weights stay offloaded.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Gate", "Gates", "Total", "graph_task"]


def graph_task() -> int:
    """Number of the backward pass that is running in this thread."""
    return int(torch._C._current_graph_task_id())


@dataclass(slots=True)
class Total:
    """Gradients summed over the calls so far, one per tensor behind the gate."""

    gradients: list[torch.Tensor | None]
    owned: set[int] = field(default_factory=set)  # positions that may be added to in place, see accumulate.py


class Gate:
    """`token` is an empty tensor with a graph edge to the tensors behind the gate; it goes into each call."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.totals: dict[int, Total] = {}  # by backward pass
        self.token: torch.Tensor = _Gate.apply(self.totals, *tensors)  # type: ignore[no-untyped-call]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, totals: dict[int, Total], *tensors: torch.Tensor) -> torch.Tensor:
        ctx.set_materialize_grads(False)
        ctx.totals = totals
        ctx.size = len(tensors)
        return torch.empty(0, device=tensors[0].device)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        total: Total | None = ctx.totals.pop(graph_task(), None)
        gradients = [None] * ctx.size if total is None else total.gradients
        if torch.is_grad_enabled():  # create_graph=True: say so where a second derivative is asked for, not silently
            gradients = [None if g is None else _no_second_derivative(g) for g in gradients]
        return None, *gradients


def _no_second_derivative(gradient: torch.Tensor) -> torch.Tensor:
    message = (
        "adjointdpm.replay gives first derivatives only: a second derivative (create_graph=True and another "
        "backward) needs the graph of every call, that is plain backprop without `replay`"
    )
    delayed = torch._C._functions.DelayedError(message, 1)  # type: ignore[attr-defined]
    result: torch.Tensor = delayed(gradient.detach().requires_grad_())
    return result


class Gates:
    """The gates of one `replay`: one per distinct tensor or set of weights, kept only as long as some call needs it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[list[Any], tuple[int, ...], Any]] = {}

    def of(self, tensors: Sequence[torch.Tensor], *, shared: bool) -> Gate:
        """The gate of these tensors: the same one for every call, until one of them is edited in place.

        Not shared where each call uses the tensor once: then the sum outside, into which gradients from elsewhere go
        too (a latent's next step), is in plain backprop's order already, and a sum of its own would not be.
        """
        if not shared:
            return Gate(tensors)
        key = tuple(map(id, tensors))
        versions = tuple(-1 if t.is_leaf else t._version for t in tensors)  # an in-place edit moves a non-leaf's edge
        if key in self._known:
            owners, then, ref = self._known[key]
            gate: Gate | None = ref()
            if gate is not None and then == versions and all(o() is t for o, t in zip(owners, tensors, strict=True)):
                return gate
        gate = Gate(tensors)
        known = self._known

        def forget(ref: Any) -> None:
            if key in known and known[key][2] is ref:
                del known[key]

        self._known[key] = [weakref.ref(t) for t in tensors], versions, weakref.ref(gate, forget)
        return gate
