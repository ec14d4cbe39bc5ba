"""How much of the picture the object covers."""

from __future__ import annotations

from torch import Tensor

__all__ = ["area", "size_loss"]

LEAST = 1e-3  # of the picture, so that an empty mask has a finite loss


def area(mask: Tensor) -> Tensor:
    """Share of the picture, (B,)."""
    return mask.mean(dim=(-2, -1))


def size_loss(mask: Tensor, share: float) -> Tensor:
    """(B,): squared logarithm of the ratio to `share`, so that half and double cost the same."""
    return ((area(mask) + LEAST) / (share + LEAST)).log().square()
