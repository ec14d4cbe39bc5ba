"""Gradients of large weights added to their sums one by one, as they arise.

A backward pass that returns the gradients of all weights at once, to be added to the sums so far, holds twice the size
of the weights.  For a large weight that a call uses once, a hook adds the gradient to the sum the moment it is there
and hands on a zero that takes no memory.  The order of additions stays that of plain backprop; a weight with several
uses goes the other way, see gate.py, since its uses must be added one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from adjointdpm.replay.gate import Total

__all__ = ["added_as_they_arise", "is_narrow", "large"]

_LARGE = 1 << 14  # elements; the many small weights are not worth a Python call each


def large(weight: torch.Tensor) -> bool:
    """Whether a weight takes this way if a call uses it once."""
    return weight.numel() >= _LARGE and weight.is_leaf


def is_narrow(tensor: torch.Tensor, wide: torch.dtype | None) -> bool:
    """Whether sums for a tensor are to be made in `wide`, because its own dtype is less precise."""
    return wide is not None and tensor.is_floating_point() and torch.finfo(tensor.dtype).eps > torch.finfo(wide).eps


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
