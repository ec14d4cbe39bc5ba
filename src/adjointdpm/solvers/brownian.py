"""A Brownian path that any grid can read: the noise of a stochastic solver, the same one at every number of steps.

A virtual tree (as in diffrax and torchsde): the value at a point is found by halving the range, each middle drawn from
the Brownian bridge between its ends with a seed of its own.  So a value depends on the seed and the point alone, not on
which points were asked for before; nothing is stored, and a finer grid refines the very same path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["BrownianPath"]

DEPTH = 18  # halvings: points of a grid lie further apart than the 2^-18th part of its range
Variance = Callable[[float], float]


@dataclass(frozen=True)
class BrownianPath:
    """W(s) for s over [s(high), s(low)], s a decreasing function of a parameter in [low, high].

    Args:
        seed: one for the whole batch, or one for each sample, which then does not depend on its batch.
    """

    seed: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        seeds = (self.seed,) if isinstance(self.seed, int) else tuple(self.seed)
        if not seeds or any(isinstance(s, bool) or not isinstance(s, int | np.integer) or s < 0 for s in seeds):
            raise InvalidInput(f"seed must be a whole number >= 0, or one for each sample, got {self.seed!r}")
        object.__setattr__(self, "seed", self.seed if isinstance(self.seed, int) else tuple(map(int, self.seed)))

    def increment(self, variance: Variance, low: float, high: float, a: float, b: float, like: Tensor) -> Tensor:
        """W(s(a)) - W(s(b)), normal with variance |s(a) - s(b)|; of the shape, device and dtype of `like` (B, ...).

        Args:
            variance: s as a function of the parameter.
            low, high: the parameter's range, the same for every grid that is to share the path.
            a, b: two parameters in the range.
        """
        difference = self._at(variance, low, high, a, like.shape) - self._at(variance, low, high, b, like.shape)
        return difference.to(like)

    def _at(self, variance: Variance, low: float, high: float, point: float, shape: Sequence[int]) -> Tensor:
        """W at the parameter `point`, 0 at s = s(low); float64 on the CPU."""
        left, right = low, high
        s_left, s_right = variance(left), variance(right)
        w_left = torch.zeros(shape, dtype=torch.float64, device="cpu")
        w_right = math.sqrt(abs(s_right - s_left)) * self._normal(1, shape)
        node = 1
        for level in range(DEPTH + 1):
            if point <= left:
                return w_left
            if point >= right:
                return w_right
            middle = point if level == DEPTH else (left + right) / 2
            s = variance(middle)
            share = (s - s_left) / (s_right - s_left)
            spread = math.sqrt(abs(s - s_left) * (1 - share))
            w = w_left + share * (w_right - w_left) + spread * self._normal(2 * node, shape)
            if point < middle:
                right, s_right, w_right, node = middle, s, w, 2 * node
            else:
                left, s_left, w_left, node = middle, s, w, 2 * node + 1
        return w_left

    def _normal(self, node: int, shape: Sequence[int]) -> Tensor:
        if isinstance(self.seed, int):
            return _standard_normal(self.seed, node, shape)
        if len(self.seed) != shape[0]:
            raise InvalidInput(f"{len(self.seed)} seeds were given for a batch of {shape[0]}")
        return torch.stack([_standard_normal(seed, node, shape[1:]) for seed in self.seed])


def _standard_normal(seed: int, node: int, shape: Sequence[int]) -> Tensor:
    mixed = int(np.random.SeedSequence([seed, node]).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(mixed), dtype=torch.float64, device="cpu")
