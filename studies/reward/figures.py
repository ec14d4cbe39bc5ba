"""From the scores of single images to means, paired differences and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adjointdpm.tasks.reward.scores import Change, mean_interval, verdict

__all__ = ["against", "compare", "summary"]

Case = Mapping[str, Any]  # what `runner` stores of one run


def summary(cases: Sequence[Case]) -> dict[str, Any]:
    """Of one method over seeds: means before and after with an interval over seeds, and the verdict on hacking."""
    found: dict[str, Any] = {"seeds": len(cases), "images": sum(len(case["after"]["reward"]) for case in cases)}
    for name in ("reward", "held out"):
        before = [value for case in cases for value in case["before"][name]]
        after = [value for case in cases for value in case["after"][name]]
        by_seed = [sum(case["after"][name]) / len(case["after"][name]) for case in cases]
        mean, low, high = mean_interval(by_seed)
        found[name] = {
            "before": sum(before) / len(before),
            "after": mean,
            "interval": None if len(cases) < 2 else [low, high],
            "by_seed": by_seed,
            "change": Change(name, before, after).as_dict(),
        }
    changes = [
        Change(
            name,
            [v for case in cases for v in case["before"][name]],
            [v for case in cases for v in case["after"][name]],
        )
        for name in ("reward", "held out")
    ]
    found["verdict"] = verdict(*changes)
    for when in ("before", "after"):
        hits = [hit for case in cases for hit in case["recognised"][when]]
        found[f"recognised {when}"] = sum(hits) / len(hits)
    found["updates"] = sum(case["updates"] for case in cases) / len(cases)
    found["rate"] = cases[0]["rate"]
    penalties = [value for case in cases for value in case["penalty"] or ()]
    found["penalty"] = sum(penalties) / len(penalties) if penalties else None
    return found


def against(ours: Sequence[Case], theirs: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """Ours less theirs on the same images and seeds, as `Change.as_dict`, for both rewards."""
    found = {}
    for name in ("reward", "held out"):
        a = [value for case in ours for value in case["after"][name]]
        b = [value for case in theirs for value in case["after"][name]]
        found[name] = Change(name, b, a).as_dict()
    return found


def compare(difference: Mapping[str, Any]) -> str:
    """In words: is the first higher?"""
    low, high = difference["interval"] or (-1, 1)
    return "higher" if low > 0 else "lower" if high < 0 else "no difference found"
