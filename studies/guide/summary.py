"""From the figures of all prompts to what the page says: medians and shares, each with its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import numpy as np

from adjointdpm.zoo.measure import wilson
from studies.guide.design import MEDIAN_IOU, RECOGNISED, Question

__all__ = ["answers", "cases", "counted", "median_interval", "sign_test", "summarise"]

DRAWS, SIGNIFICANT = 10_000, 0.05
Figures = Mapping[str, Mapping[str, Any]]  # by question and prompt


def median_interval(values: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Median and its bootstrap interval (percentiles of the medians of resampled values)."""
    array = np.asarray(values, float)
    picks = np.random.default_rng(seed).integers(0, len(array), (DRAWS, len(array)))
    low, high = np.percentile(np.median(array[picks], axis=1), [2.5, 97.5])
    return {"median": round(float(np.median(array)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def sign_test(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """In how many pairs ours is ahead, in how many behind, and the two-sided p of that split if both were alike."""
    ahead = sum(a > b for a, b in zip(ours, theirs, strict=True))
    behind = sum(a < b for a, b in zip(ours, theirs, strict=True))
    n, k = ahead + behind, min(ahead, behind)
    p = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    return {"ahead": ahead, "behind": behind, "p": float(f"{p:.3g}")}


def cases(figures: Figures, questions: Sequence[Question], method: str, key: str) -> list[Any]:
    """The values of a method over all prompts and noises of some questions."""
    return [value for q in questions for prompt in q.prompts for value in figures[q.name][prompt][key][method]]


def counted(figures: Figures, questions: Sequence[Question], method: str) -> list[float]:
    """As `cases`, an image that is not recognised counting 0."""
    values, seen = (cases(figures, questions, method, key) for key in ("values", "recognised"))
    return [value if ok else 0.0 for value, ok in zip(values, seen, strict=True)]


def summarise(figures: Figures, questions: Sequence[Question], methods: Sequence[str]) -> dict[str, Any]:
    """Every method over some questions, and the exact gradient against each of the others."""
    found: dict[str, Any] = {}
    ours = cases(figures, questions, "exact", "values")
    for method in methods:
        values, seen = (cases(figures, questions, method, key) for key in ("values", "recognised"))
        low, high = wilson(sum(seen), len(seen))
        found[method] = {
            "value": median_interval(values),
            "counted": median_interval(counted(figures, questions, method)),
            "recognised": {"right": sum(seen), "n": len(seen), "low": round(low, 4), "high": round(high, 4)},
        }
        if method != "exact":
            found[method]["against"] = sign_test(ours, values)
            pair = [counted(figures, questions, name) for name in ("exact", method)]
            found[method]["against_counted"] = sign_test(*pair)
    return found


def answers(summary: Mapping[str, Any]) -> dict[str, bool]:
    """The targets of the box questions, each met or not; "significant": ahead of each rival in a sign test as well."""
    ours, rivals = summary["exact"], [summary[m] for m in ("words", "one_step", "universal")]
    seen = ours["recognised"]
    return {
        "median": ours["counted"]["median"] >= MEDIAN_IOU,
        "above": all(ours["counted"]["median"] > rival["counted"]["median"] for rival in rivals),
        "significant": all(rival["against_counted"]["p"] < SIGNIFICANT for rival in rivals),
        "recognised": seen["right"] / seen["n"] >= RECOGNISED,
    }
