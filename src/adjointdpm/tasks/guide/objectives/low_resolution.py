"""The picture, made small, is a given small picture.

Reduction is the mean over the area of each small pixel, what a camera with fewer pixels would see, so a small picture
constrains layout and colours and leaves every detail to the model.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["low_resolution_loss", "reduced"]


def reduced(image: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, height, width): means over areas, of any ratio."""
    return F.interpolate(image, size=(height, width), mode="area")


def low_resolution_loss(image: Tensor, small: Tensor) -> Tensor:
    """(B,): mean squared difference of the reduced image from `small` (1, 3, h, w)."""
    return (reduced(image, *small.shape[-2:]) - small.to(image)).square().mean(dim=(1, 2, 3))
