"""Copies of a call's arguments, made before it runs, from which it is replayed.

Copies and not the arguments themselves, because a loop may edit those in place (`x += d`, a timestep buffer that is
filled anew), and plain backprop would mostly allow it.  The argument itself is usually freed soon after, so nothing is
held twice; an argument of many calls (the conditioning) is copied once.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

__all__ = ["Keepsakes"]


class Keepsakes:
    """The copies of one `replay`, shared between calls as long as the argument lives and is not edited."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, int, torch.Tensor]] = {}

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """A detached copy of `tensor`; a weight is not copied, nor is a tensor that repeats itself in memory.

        What is not copied is guarded by PyTorch's version counter, so that an edit before backward raises.
        """
        key, version = id(tensor), tensor._version
        if key in self._known:
            owner, then, copy = self._known[key]
            if owner() is tensor and then == version:
                return copy
        copy = tensor.detach()
        if isinstance(tensor, torch.nn.Parameter) or tensor.layout != torch.strided or _repeats(tensor):
            return copy
        copy = copy.clone()
        if copy.stride() != tensor.stride():  # another layout may take another kernel
            return tensor.detach()
        known = self._known

        def forget(ref: Any) -> None:
            if key in known and known[key][0] is ref:
                del known[key]

        self._known[key] = weakref.ref(tensor, forget), version, copy
        return copy

    def clear(self) -> None:
        """Hold no copy any longer; the calls hold theirs."""
        self._known.clear()


def _repeats(tensor: torch.Tensor) -> bool:
    return any(step == 0 and size > 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))
