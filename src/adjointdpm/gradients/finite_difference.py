"""Directional derivative of a scalar function by central differences, with an error estimate of its own.

A gradient g is checked against (f(x + h v) - f(x - h v)) / 2h for a few directions v, which needs nothing but values of
f.  One step h is never right: too large and the curvature shows, too small and rounding does; and the right one varies
by a factor of a thousand (a network is far more curved in its weights than in its input).  So h is halved until the
extrapolation to h = 0 (Richardson, to order 6) settles, and the estimate that agrees best with its neighbours is taken
(after Ridders, 1982).  Their disagreement, and never less than the rounding of f itself over h, is reported as the
noise: a difference below it says nothing against the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Derivative", "Ladder", "directional_derivative", "directions_for", "ladder_for"]


class Derivative(NamedTuple):
    """A derivative and how far it can be trusted, both in units of f."""

    value: float
    noise: float


class Ladder(NamedTuple):
    """Steps of a difference: the first, in units of the input's own size; the most halvings; the noise to stop at."""

    first: float
    levels: int
    target: float


def ladder_for(dtype: torch.dtype) -> Ladder:
    """What fits a function that is computed in `dtype`."""
    if dtype == torch.float64:
        return Ladder(8e-3, 14, 1e-10)
    if dtype == torch.float32:
        return Ladder(6e-2, 12, 3e-4)
    return Ladder(0.25, 6, 1e-2)  # half precision: f carries about three digits, a small step sees nothing


def directional_derivative(
    value: Callable[[float], float], ladder: Ladder, *, size: float = 1.0, resolution: float = 0.0, floor: float = 0.0
) -> Derivative:
    """Derivative of `value` at 0 from two calls at each step of the ladder, times `size`.

    `resolution` is the spacing of values of f, about eps * |f|.  Estimates compete by their noise relative to their own
    value plus `floor`, so that a step over which f is flat, and its differences small, does not win by it.  Values of f
    that are not finite give a NaN derivative.
    """
    best, best_noise = Derivative(math.nan, math.inf), math.inf
    previous: list[float] = []
    apart_before = 0.0
    for level in range(ladder.levels):
        h = ladder.first * size * 0.5**level
        row = [(value(h) - value(-h)) / (2 * h)]
        for k in range(1, min(level, 2) + 1):  # cancels the h^2, then the h^4 term
            row.append(row[k - 1] + (row[k - 1] - previous[k - 1]) / (4.0**k - 1))
        if level >= 2:
            apart = max(abs(row[-1] - previous[-1]), abs(row[-1] - row[-2]), resolution / h)
            noise = max(apart, 0.1 * apart_before)  # two estimates that agree by chance do not win
            relative = noise / (abs(row[-1]) + floor or noise) if noise else 0.0
            if relative < best_noise or math.isnan(best.value):
                best, best_noise = Derivative(row[-1], noise), relative
            if best_noise <= ladder.target or (best_noise < 1e-2 and relative > 4 * best_noise):
                break  # settled, or already in the rounding
            apart_before = apart
        previous = row
    return best


def directions_for(gradient: Sequence[Tensor], count: int, seed: int) -> list[list[Tensor]]:
    """`count` directions for one group of tensors: the gradient's own first, then random ones.

    Along the gradient the signal is largest, so a wrong scale shows; a random direction sees every component alike.
    All have root mean square 1 over the group, so that one step moves each entry by about as much.
    """
    total = sum(g.numel() for g in gradient)
    norm = math.sqrt(sum(float(g.detach().double().square().sum()) for g in gradient))
    found: list[list[Tensor]] = []
    if math.isfinite(norm) and norm > 0:
        found.append([g.detach() * (math.sqrt(total) / norm) for g in gradient])
    source = torch.Generator().manual_seed(seed)
    while len(found) < count:
        noise = [torch.randn(g.shape, generator=source, dtype=torch.float64) for g in gradient]
        size = math.sqrt(sum(float(v.square().sum()) for v in noise) / total)
        found.append([(v / size).to(g) for v, g in zip(noise, gradient, strict=True)])
    return found[:count]
