"""A region of a given image stays as it is, and the model invents the rest (inpainting)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["psnr", "region_loss"]


def region_loss(image: Tensor, reference: Tensor, keep: Tensor) -> Tensor:
    """(B,): mean squared difference from `reference` (1 or B, 3, H, W) where `keep` (H, W) is 1."""
    weight = keep.to(image)
    squares = (image - reference.to(image)).square().mean(dim=1) * weight
    return squares.sum(dim=(-2, -1)) / weight.sum()


def psnr(error: Tensor) -> Tensor:
    """Mean squared error of values in [0, 1] -> dB."""
    return -10 * error.clamp_min(1e-10).log10()
