"""Noise as a grid of cells, whatever its layout.

Pipelines of the family of Flux pack 2 x 2 cells of (B, C, h, w) into each row of (B, h w / 4, 4 C).  What is done to
noise in its plane needs the cells in their places; everything else takes the noise as the pipeline does.
"""

from __future__ import annotations

import math

from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["as_grid", "laid_out_as"]


def as_grid(noise: Tensor) -> Tensor:
    """(B, C, h, w) of noise in either layout; packed noise is that of a square image, as a painter draws it."""
    if noise.dim() == 4:
        return noise
    batch, rows, *width = noise.shape
    side = math.isqrt(rows)
    if len(width) != 1 or width[0] % 4 or side**2 != rows:
        raise InvalidInput(
            f"this pipeline's noise has a layout of its own, {tuple(noise.shape)}: expected (B, C, h, w), or the 2 x 2 "
            "cells of a square packed into rows"
        )
    patches = noise.reshape(batch, side, side, width[0] // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, width[0] // 4, 2 * side, 2 * side)


def laid_out_as(noise: Tensor, grid: Tensor) -> Tensor:
    """`grid` (B, C, h, w) in the layout of `noise`."""
    if noise.dim() == 4:
        return grid
    batch, channels, height, width = grid.shape
    patches = grid.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height * width // 4, 4 * channels)
