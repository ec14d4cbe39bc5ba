"""Directional derivative of a scalar function by central differences, with an error estimate of its own.

A gradient g is checked against (f(x + h v) - f(x - h v)) / 2h for a few directions v, which needs nothing but values
of f.  One step h is never right: too large and the curvature shows, too small and rounding does.  So a ladder of steps
h, h/2, h/4, ... is extrapolated to h = 0 (Richardson), and the entry of the tableau whose neighbours agree best is
taken (Ridders, 1982).  The disagreement of those neighbours, and never less than the rounding of f itself over h, is
reported as the noise: a difference below it says nothing against the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Derivative", "directional_derivative", "directions_for", "first_step"]


class Derivative(NamedTuple):
    """A derivative and how far it can be trusted, both in units of f."""

    value: float
    noise: float


def first_step(dtype: torch.dtype) -> tuple[float, int]:
    """Largest step of the ladder, in units of the input's own size, and the number of halvings, by dtype."""
    if dtype == torch.float64:
        return 4e-3, 4
    if dtype == torch.float32:
        return 6e-2, 4
    return 0.25, 3  # half precision: f carries about three digits, a small step sees nothing


def directional_derivative(value: Callable[[float], float], step: float, levels: int, resolution: float) -> Derivative:
    """Derivative of `value` at 0 from 2 * `levels` calls at +-step, +-step/2, ...

    `resolution` is the spacing of values of f, about eps * |f|.  Non-finite values of f give a NaN derivative.
    """
    best = Derivative(math.nan, math.inf)
    previous: list[float] = []
    for level in range(levels):
        h = step * 0.5**level
        row = [(value(h) - value(-h)) / (2 * h)]
        if level == 0:
            best = Derivative(row[0], math.inf)
        for k in range(1, level + 1):  # cancels the h^2, h^4, ... terms one after the other
            row.append(row[k - 1] + (row[k - 1] - previous[k - 1]) / (4.0**k - 1))
            noise = max(abs(row[k] - row[k - 1]), abs(row[k] - previous[k - 1]), resolution / h)
            if noise < best.noise:
                best = Derivative(row[k], noise)
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
