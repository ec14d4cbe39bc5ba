"""How likely a noise is under N(0, I), and how it is kept likely while it is optimised.

A sampler was trained on Gaussian noise, and noise that is moved far in the direction of a gradient is noise no longer:
the image breaks before the loss is met.  Two things are kept.  The length: almost all Gaussian noise of dimension d
lies near the sphere of radius sqrt(d), so `on_shell` projects what is optimised back to the length that the noise was
drawn with (as part of the graph: the gradient is that of the projected noise).  The spectrum: white noise, averaged
over blocks of s x s cells and multiplied by s, has unit variance at every s, while an optimiser that moves things
prefers large smooth changes; `deviance` is the likelihood-ratio statistic of these variances, channel by channel, which
is small for typical noise and grows with the square of what is added.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from adjointdpm.tasks.guide.grid import as_grid

__all__ = ["TYPICAL", "deviance", "on_shell", "scales", "typicality"]

TYPICAL = 0.5  # about what `deviance` is for Gaussian noise; it is exactly so for many cells
FLOOR = 1e-8


def on_shell(free: Tensor, drawn: Tensor) -> Tensor:
    """Each noise of `free` (B, ...) at the length of the same one of `drawn`."""
    sides = tuple(range(1, free.dim()))
    wanted = drawn.square().sum(dim=sides, keepdim=True)
    return free * (wanted / free.square().sum(dim=sides, keepdim=True).clamp_min(FLOOR)).sqrt()


def scales(height: int, width: int) -> list[int]:
    """Sides of the blocks: 1, 2, 4 … while at least two fit each way."""
    found = [1]
    while 4 * found[-1] <= min(height, width):
        found.append(2 * found[-1])
    return found


def deviance(noise: Tensor) -> Tensor:
    """(B,): n (v - 1 - log v) / 2, v the mean square of a channel's n block means; mean over channels and scales."""
    grid, parts = as_grid(noise), []
    for side in scales(*grid.shape[-2:]):
        blocks = side * F.avg_pool2d(grid, side)
        count = blocks.shape[-2] * blocks.shape[-1]
        v = blocks.square().mean(dim=(-2, -1)).clamp_min(FLOOR)
        parts.append(0.5 * count * (v - 1 - v.log()).mean(dim=1))
    return sum(parts[1:], start=parts[0]) / len(parts)


def typicality(noise: Tensor) -> list[dict[str, float]]:
    """For each noise: its length in units of sqrt(d), and its deviance; for reports."""
    lengths = noise.detach().square().flatten(1).mean(dim=1).sqrt()
    return [
        {"length": round(float(length), 4), "deviance": round(float(value), 3)}
        for length, value in zip(lengths, deviance(noise.detach()), strict=True)
    ]
