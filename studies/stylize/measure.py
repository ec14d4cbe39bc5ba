"""Figures of one method on one set of images, with intervals from resampling the prompts.

Images of one prompt resemble each other, so prompts are drawn, not images.  "Both together" is the share, of the images
whose object was recognised before, that have both lost half of their distance to the style and kept their object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adjointdpm.zoo.measure import wilson
from studies.stylize.design import HALVED

__all__ = ["Measured", "figures", "interval", "mcnemar"]

DRAWS = 2000


@dataclass(frozen=True)
class Measured:
    """Of each image: the prompt, distances to the style before and after, recognised before and after."""

    prompts: Sequence[str]
    before: Sequence[float]
    after: Sequence[float]
    seen_before: Sequence[bool]
    seen_after: Sequence[bool]

    def drop(self, rows: Sequence[int] | None = None) -> float:
        """1 − mean distance after / mean distance before."""
        rows = range(len(self.prompts)) if rows is None else rows
        return 1 - sum(self.after[i] for i in rows) / max(1e-12, sum(self.before[i] for i in rows))

    def kept(self, rows: Sequence[int] | None = None) -> float:
        """Objects recognised after, as a share of those recognised before."""
        rows = range(len(self.prompts)) if rows is None else rows
        return sum(self.seen_after[i] for i in rows) / max(1, sum(self.seen_before[i] for i in rows))

    def both(self) -> list[bool]:
        """Of each image recognised before: halved, and still recognised?"""
        return [
            bool(self.after[i] <= (1 - HALVED) * self.before[i] and self.seen_after[i])
            for i in range(len(self.prompts))
            if self.seen_before[i]
        ]


def interval(measured: Measured, of: Callable[[Sequence[int]], float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of `of(rows)`, prompts resampled with all of their images."""
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(measured.prompts))
    rows = {name: [i for i, p in enumerate(measured.prompts) if p == name] for name in names}
    drawn = []
    for _ in range(DRAWS):
        some = rng.integers(0, len(names), len(names))
        drawn.append(of([i for k in some for i in rows[names[k]]]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def figures(measured: Measured) -> dict[str, Any]:
    """As they stand in the JSON."""
    both = measured.both()
    low, high = wilson(sum(both), len(both))

    def with_interval(of: Callable[..., float]) -> dict[str, float]:
        ends = interval(measured, of)
        return {"value": round(of(), 4), "low": round(ends[0], 4), "high": round(ends[1], 4)}

    return {
        "images": len(measured.prompts),
        "distance_before": round(float(np.mean(measured.before)), 4),
        "distance_after": round(float(np.mean(measured.after)), 4),
        "drop": with_interval(measured.drop),
        "recognised_before": int(sum(measured.seen_before)),
        "recognised_after": int(sum(measured.seen_after)),
        "kept": with_interval(measured.kept),
        "both": {
            "right": sum(both),
            "n": len(both),
            "share": round(sum(both) / max(1, len(both)), 4),
            "low": round(low, 4),
            "high": round(high, 4),
        },
    }


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> dict[str, float | int]:
    """Exact two-sided McNemar test on paired outcomes: how often only ours, only theirs, and p."""
    from math import comb

    only_ours = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    only_theirs = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    n, k = only_ours + only_theirs, min(only_ours, only_theirs)
    p = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    return {"only_ours": only_ours, "only_theirs": only_theirs, "p": float(f"{p:.3g}")}
