"""Rates with Wilson intervals, and the paired test of two methods on the same samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from adjointdpm.zoo.measure import wilson

__all__ = ["Rate", "mcnemar"]


@dataclass(frozen=True)
class Rate:
    """`hits` of `n`."""

    hits: int
    n: int

    @property
    def share(self) -> float:
        """0 where there is nothing to count."""
        return self.hits / self.n if self.n else 0.0

    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval; (0, 1) where there is nothing to count."""
        return wilson(self.hits, self.n)

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.hits + other.hits, self.n + other.n)

    def as_dict(self) -> dict[str, Any]:
        low, high = self.interval()
        return {"hits": self.hits, "n": self.n, "share": self.share, "low": low, "high": high}

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{100 * self.share:.0f} % ({100 * low:.0f}–{100 * high:.0f})" if self.n else "–"


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test.

    Args:
        only_first: samples on which the first method alone succeeded.
        only_second: those on which the second alone did.  Samples on which both did or neither say nothing.
    """
    n, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    return float(min(1.0, 2 * tail))
