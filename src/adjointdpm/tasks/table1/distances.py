"""Fréchet distance and KID of two sets of features, with bootstrap intervals.

An interval says how far the figure would move with other noises: the model's images are drawn again with replacement,
the real ones stay.  Both figures are biased under resampling (an image drawn twice is as near to itself as can be), so
what is reported is the spread of the resampled figures about their own median, put around the figure itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from adjointdpm.zoo.measure import frechet_to

__all__ = ["Estimate", "frechet", "kid"]

WIDEST = 512  # dimensions up to which Fréchet distances are resampled: beyond, each takes seconds


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, both None where it was not resampled."""

    value: float
    low: float | None = None
    high: float | None = None


def frechet(made: np.ndarray, real: np.ndarray, resamples: int) -> Estimate:
    """Between Gaussians fitted to features (N, D) and (M, D); FID where the features are Inception's."""
    distance = frechet_to(real)
    value = distance(made)
    if made.shape[1] > WIDEST:
        return Estimate(value)
    return _interval(value, len(made), resamples, lambda rows: distance(made[rows]))


def kid(made: np.ndarray, real: np.ndarray, resamples: int) -> Estimate:
    """Kernel distance: squared MMD, unbiased, with the kernel (f g / D + 1)^3 (Binkowski et al. 2018)."""
    within, between = _kernel(made, made), _kernel(made, real).mean(axis=1)
    n, m = len(made), len(real)
    among = _kernel(real, real)
    real_part = (among.sum() - np.trace(among)) / (m * (m - 1))

    def figure(weights: np.ndarray) -> float:
        """An image drawn k times has weight k; pairs of an image with itself do not count."""
        pairs = weights @ within @ weights - (weights**2) @ np.diag(within)
        total = n**2 - (weights**2).sum()
        return float(pairs / total + real_part - 2 * (weights @ between) / n)

    def again(rows: np.ndarray) -> float:
        return figure(np.bincount(rows, minlength=n).astype(np.float64))

    return _interval(figure(np.ones(n)), n, resamples, again)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    kernel: np.ndarray = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def _interval(value: float, n: int, resamples: int, figure: Callable[[np.ndarray], float]) -> Estimate:
    """The same draws for every cell of a run, so that cells can be compared."""
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, n, n) for _ in range(resamples)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy's linear algebra releases Python's lock
        found = np.array(list(pool.map(figure, draws)))
    low, middle, high = np.quantile(found, (0.025, 0.5, 0.975))
    return Estimate(value, value + float(low - middle), value + float(high - middle))
