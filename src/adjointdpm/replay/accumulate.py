"""Gradients of weights added to their sums over the calls one by one, as they arise.

A backward pass that returns the gradients of all weights at once, to be added to the sums so far, holds twice the size
of the weights.  PyTorch's own accumulation into `.grad` does not: it adds in place, in C++.  So the sums are put in the
place of the weights' `.grad` while the pass of one call runs, and the user's `.grad` comes back afterwards.  That keeps
the order of additions of plain backprop for a weight that a call uses once; one with several uses must have the sum as
first summand, see gate.py, and its gradient is only collected here.

`.grad` is out of reach in two cases: `torch.distributed` hangs its own hooks on the accumulation, which must run once
and on the total; and sums in another dtype than the weight's.  There a hook on each large weight adds in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from adjointdpm.replay.gate import Total

__all__ = ["added_as_they_arise", "can_borrow", "gradients_in_place", "is_narrow", "large"]

_LARGE = 1 << 14  # elements; the many small weights are not worth a Python call each


def large(weight: torch.Tensor) -> bool:
    """Whether a weight is worth a hook of its own."""
    return weight.numel() >= _LARGE


def is_narrow(tensor: torch.Tensor, wide: torch.dtype | None) -> bool:
    """Whether sums for a tensor are to be made in `wide`, because its own dtype is less precise."""
    return wide is not None and tensor.is_floating_point() and torch.finfo(tensor.dtype).eps > torch.finfo(wide).eps


def can_borrow(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether `.grad` of these tensors may be used for a while."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed and all(t.is_leaf for t in tensors)


def gradients_in_place(
    roots: Sequence[torch.Tensor],
    seeds: Sequence[torch.Tensor],
    tensors: Sequence[torch.Tensor],
    sums: Sequence[torch.Tensor | None],
) -> list[torch.Tensor | None]:
    """The gradient of each leaf in `tensors`, added in place to the sum given for it, if any."""
    before = [t.grad for t in tensors]
    try:
        for tensor, so_far in zip(tensors, sums, strict=True):
            tensor.grad = so_far
        torch.autograd.backward(roots, seeds, inputs=tensors)
        return [t.grad for t in tensors]
    finally:
        for tensor, grad in zip(tensors, before, strict=True):
            tensor.grad = grad


@contextmanager
def added_as_they_arise(
    weights: Sequence[torch.Tensor], which: Sequence[int], total: Total, wide: torch.dtype | None = None
) -> Iterator[None]:
    """During the block, gradients of `weights[i]`, i in `which`, are added to those in `total`, in `wide` if given."""
    sums, owned = total.gradients, total.owned

    def adder(i: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def add(gradient: torch.Tensor) -> torch.Tensor:
            so_far = sums[i]
            if is_narrow(gradient, wide):
                sums[i] = gradient.to(wide) if so_far is None else so_far.add_(gradient)
            elif so_far is None:
                sums[i] = gradient  # may be shared with another weight: `a + b` has one gradient for both
            elif i in owned:
                so_far.add_(gradient)
            else:
                sums[i] = so_far + gradient
                owned.add(i)
            return gradient.new_zeros(()).expand_as(gradient)

        return add

    handles = [weights[i].register_hook(adder(i)) for i in which]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
