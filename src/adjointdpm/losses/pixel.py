"""Mean squared error between images, the loss of the paper's inversion (section 4.1)."""

from __future__ import annotations

from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["mse"]


def mse(image: Tensor, target: Tensor) -> Tensor:
    """Mean over all elements of (image - target)^2; both (B, 3, H, W).  Returns a scalar.

    Raises `InvalidInput` if the shapes differ (broadcasting would compare every image with every other).
    """
    if image.shape != target.shape:
        raise InvalidInput(f"the image has shape {tuple(image.shape)}, its target {tuple(target.shape)}")
    return (image - target).square().mean()
