"""The clamp to [0, 1] that a picture goes through, with the way back inside left open.

A loss on unclamped images can be lowered by colours that no picture has; a loss on clamped ones has no gradient where a
pixel is saturated, and so cannot take it back from there.  Here the value is the clamp's, and at a pixel outside [0, 1]
the gradient passes if following it downhill leads back inside, and is zero if it leads farther out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["clamp_inward"]


class _Inward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        ctx.save_for_backward(image)
        return image.clamp(0, 1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (image,) = ctx.saved_tensors
        outward = ((image > 1) & (grad < 0)) | ((image < 0) & (grad > 0))  # a loss is lowered by going against grad
        return grad.masked_fill(outward, 0)


def clamp_inward(image: Tensor) -> Tensor:
    """`image` (any shape) clamped to [0, 1]; for losses, which are minimised."""
    return _Inward.apply(image)  # type: ignore[no-any-return, no-untyped-call]
