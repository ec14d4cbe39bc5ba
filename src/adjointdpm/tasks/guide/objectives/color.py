"""The object's colour: the mean over its mask.

The mask is taken as given: with a gradient through it the cheapest way to another mean colour is to call fewer
pixels the object.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["color_difference", "color_loss", "object_color"]


def object_color(image: Tensor, mask: Tensor) -> Tensor:
    """Mean colour of the object, (B, 3), without a gradient to the mask."""
    weight = mask.detach()[:, None]
    return (image * weight).sum(dim=(-2, -1)) / weight.sum(dim=(-2, -1)).clamp_min(1e-6)


def color_loss(image: Tensor, mask: Tensor, color: Sequence[float]) -> Tensor:
    """(B,): mean squared difference of the object's colour from `color` (r, g, b in [0, 1])."""
    return (object_color(image, mask) - torch.tensor(color).to(image)).square().mean(dim=-1)


def color_difference(image: Tensor, mask: Tensor, color: Sequence[float]) -> Tensor:
    """Root mean square difference in levels of 255, (B,)."""
    return 255 * color_loss(image, mask, color).sqrt()
