"""Sharpness: how strongly neighbouring pixels differ in brightness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["luma", "sharpness"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in JPEG
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


def luma(images: Tensor) -> Tensor:
    """Brightness (B, 1, H, W) of images (B, 3, H, W)."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)
    return (images * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def sharpness(images: Tensor) -> Tensor:
    """Standard deviation of the Laplacian of the brightness: the root of the "variance of Laplacian" of autofocus.

    Large for noise too, which is what an optimiser finds if nothing holds it: watch a second reward beside it.
    images: (B, 3, H, W) with H, W >= 3; returns (B,).
    """
    if min(images.shape[-2:]) < 3:
        raise InvalidInput(f"sharpness needs images of at least 3 x 3 pixels, got {tuple(images.shape)}")
    kernel = torch.tensor(LAPLACIAN, dtype=images.dtype, device=images.device)[None, None]
    edges = F.conv2d(luma(images), kernel).flatten(1)
    return torch.sqrt(edges.var(dim=1, correction=0) + 1e-10)
