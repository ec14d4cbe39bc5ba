"""A small sample of a product in which every pair of values of two axes occurs (a covering array of strength two)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

Case = tuple[Any, ...]


def covering_sample(axes: Sequence[Sequence[Any]], allowed: Callable[[Case], bool]) -> list[Case]:
    """Allowed cases of the product, greedily chosen so that every pair that some allowed case has is in one of them."""
    product = [case for case in itertools.product(*axes) if allowed(case)]
    missing = set().union(*(_pairs(case) for case in product))
    chosen = []
    while missing:
        best = max(product, key=lambda case: len(_pairs(case) & missing))
        chosen.append(best)
        missing -= _pairs(best)
    return chosen


def _pairs(case: Case) -> set[tuple[int, Any, int, Any]]:
    return {(i, case[i], j, case[j]) for i, j in itertools.combinations(range(len(case)), 2)}
