"""Values of a schedule at single times, remembered: a solver asks for the same few nodes many times in a step.

A handful of operations on tensors of one element costs as much as hundreds of a small network's multiplications.  Only
plain times are remembered: one without a gradient, in float64 on the CPU, outside of vmap, forward mode, inference mode
and compilation, where a stored tensor would be of the wrong kind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

__all__ = ["remembered"]

_MOST = 4096  # values of one schedule


def remembered(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`method(self, t)` that returns the same tensor for a time that it was asked before; it must not be written to."""
    name = method.__name__

    @functools.wraps(method)
    def wrapper(self: Any, t: Tensor | float) -> Tensor:
        if not _plain(t):
            return method(self, t)
        known: dict[tuple[str, float], Tensor] = self.__dict__.setdefault("_remembered", {})
        key = name, t.item()  # type: ignore[union-attr]
        if key not in known:
            if len(known) >= _MOST:
                known.clear()
            known[key] = method(self, t)
        return known[key]

    return wrapper


def _plain(t: Tensor | float) -> bool:
    return (
        isinstance(t, Tensor)
        and t.ndim == 0
        and not t.requires_grad
        and t.dtype == torch.float64
        and t.device.type == "cpu"
        and forward_ad._current_level < 0
        and not torch.is_inference_mode_enabled()
        and torch._C._functorch.peek_interpreter_stack() is None  # type: ignore[attr-defined]
        and not torch.compiler.is_compiling()
    )
