"""Directional derivative of a scalar function by central differences, with an error estimate of its own.

A gradient g is checked against (f(x + h v) - f(x - h v)) / 2h for a few directions v, which needs nothing but values of
f.  One step h is never right: too large and the curvature shows, too small and rounding does; and the right one varies
by a factor of a thousand (a network is far more curved in its weights than in its input).  So h is halved until the
extrapolation to h = 0 (Richardson, to order 6) settles, and the estimate that agrees best with its neighbours is taken
(after Ridders, 1982); where the differences do not converge as a smooth function's, the plain one at a small h.  Their
disagreement, and never less than what kinks nearer than h or the rounding of f can do, is reported as the noise: a
difference below it says nothing against the gradient.  The rounding of f is measured, not assumed: a network in float32
rounds far more coarsely than the last digit of its result, and a metric that is near zero does not have small errors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Derivative", "Ladder", "computational_noise", "directional_derivative", "directions_for", "ladder_for"]


_FALLING = 4  # halvings that must have changed a difference as a smooth function's do


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
        return Ladder(8e-3, 20, 1e-7)
    if dtype == torch.float32:
        return Ladder(6e-2, 12, 3e-4)
    return Ladder(0.5, 6, 1e-2)  # half precision: f carries about three digits, a small step sees nothing


def directional_derivative(
    value: Callable[[float], float], ladder: Ladder, *, size: float = 1.0, resolution: float = 0.0, floor: float = 0.0
) -> Derivative:
    """Derivative of `value` at 0 from two calls at each step of the ladder, times `size`.

    `resolution` is the spacing of values of f, about eps * |f|; the noise of f counts where that is larger.  Estimates
    compete by their noise relative to their own value plus `floor`, so that a step over which f is flat, and its
    differences small, does not win by it.  Values of f that are not finite give a NaN derivative.
    """
    smallest = ladder.first * size * 0.5 ** (ladder.levels - 1)
    rounding = computational_noise(value, smallest)
    best, best_noise = Derivative(math.nan, math.inf), math.inf
    previous: list[float] = []
    changes: list[float] = []  # of the plain difference from level to level
    apart = [0.0, 0.0]  # how far each level's extrapolated estimates were from one another
    bends: list[float] = []  # the slope to the right less the slope to the left
    middle = value(0.0)
    for level in range(ladder.levels):
        h = ladder.first * size * 0.5**level
        right, left = value(h), value(-h)
        row = [(right - left) / (2 * h)]
        bends.append((right - 2 * middle + left) / h)
        for k in range(1, min(level, 2) + 1):  # cancels the h^2, then the h^4 term
            row.append(row[k - 1] + (row[k - 1] - previous[k - 1]) / (4.0**k - 1))
        if level >= 1:
            changes.append(row[0] - previous[0])
        if level >= 2:
            apart.append(max(abs(row[-1] - previous[-1]), abs(row[-1] - row[-2])))
        if level >= _FALLING:  # fewer agree by chance
            # a difference has a standard deviation of rounding / h, an extrapolated one of twice that: two are claimed
            unseen = max(resolution, 4 * rounding) / h
            if falls_as_square(changes, unseen):
                found, spread = row[-1], max(apart[-1], apart[-2] / 4, apart[-3] / 16)
            else:
                unseen = max(resolution, 2 * rounding) / h
                found, spread = row[0], 2 * max(abs(c) * 0.5 ** (k / 2) for k, c in enumerate(reversed(changes)))
            # h * f'' is what a smooth function bends; what a kink nearer than h adds to that, the difference is off by
            kinks = abs(bends[-1] - bends[-2] / 2)
            noise = max(spread, 2 * kinks, unseen)
            relative = noise / (abs(found) + floor or noise) if noise else 0.0
            if relative < best_noise or math.isnan(best.value):
                best, best_noise = Derivative(found, noise), relative
            if best_noise <= ladder.target or (noise > 4 * best.noise and noise == unseen):
                break  # settled, or deep in the rounding
        previous = row
    return best


def falls_as_square(changes: Sequence[float], resolution: float) -> bool:
    """Whether the last halvings changed the difference as a smooth function's do: each by a quarter of the one before.

    A function with many kinks (every rectifier of a network has one) does not: there each halving changes the
    difference by about the root of a half of the one before, with either sign.
    """
    last = changes[-_FALLING:]
    if max(abs(c) for c in last) <= resolution:
        return True  # nothing but rounding: f is linear as far as can be seen
    return all(3 * abs(b) < abs(a) < 6 * abs(b) and a * b > 0 for a, b in itertools.pairwise(last))


def computational_noise(value: Callable[[float], float], spacing: float) -> float:
    """Standard deviation of the rounding errors of `value` near 0, from its values at 13 points `spacing` apart.

    Differences of high order see next to nothing of a smooth function on so small a scale and amplify its errors by a
    known factor, the root of (2k)! / (k!)^2 at order k (Hamming; Moré and Wild 2011, "Estimating computational noise").
    """
    row = [value(spacing * k) for k in range(-6, 7)]
    estimates = []
    for order in range(1, 7):
        row = [b - a for a, b in itertools.pairwise(row)]
        if order >= 4:
            amplified = math.factorial(2 * order) / math.factorial(order) ** 2
            estimates.append(math.sqrt(sum(d * d for d in row) / len(row) / amplified))
    return max(estimates)


def directions_for(gradient: Sequence[Tensor], count: int, seed: int) -> list[list[Tensor]]:
    """At most `count` directions for one group of tensors: the gradient's own first, then random ones.

    Along the gradient the signal is largest, so a wrong scale shows; a random direction sees every component alike.
    All have root mean square 1 over the group, so that one step moves each entry by about as much.
    """
    total = sum(g.numel() for g in gradient)
    count = min(count, total)  # a single number (a guidance scale) has but one
    norm = math.sqrt(sum(float(g.detach().double().square().sum()) for g in gradient))
    found: list[list[Tensor]] = []
    if math.isfinite(norm) and norm > 0:
        found.append([g.detach() * (math.sqrt(total) / norm) for g in gradient])
    source = torch.Generator().manual_seed(seed)
    while len(found) < count:
        noise = [torch.randn(g.shape, generator=source, dtype=torch.float64, device="cpu") for g in gradient]
        size = math.sqrt(sum(float(v.square().sum()) for v in noise) / total)
        found.append([(v / size).to(g) for v, g in zip(noise, gradient, strict=True)])
    return found[:count]
