"""Distances between sets of features, and the verdict on pairs of cells."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from adjointdpm.tasks.table1.distances import WIDEST, Estimate, frechet, kid
from adjointdpm.tasks.table1.measure import relative_errors, summary
from adjointdpm.tasks.table1.verdict import orderings, orderings_at_best, reproduced


def gaussian(n: int, d: int, seed: int, mean: float = 0.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(mean, 1.0, (n, d))


def width(estimate: Estimate) -> float:
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low <= estimate.value <= estimate.high
    return estimate.high - estimate.low


def test_frechet_distance_of_shifted_gaussians() -> None:
    real = gaussian(4000, 5, 1)
    found = frechet(gaussian(4000, 5, 2, mean=0.5), real, 50)
    assert found.value == pytest.approx(5 * 0.25, rel=0.1)
    assert width(found) > 2 * width(frechet(gaussian(40000, 5, 2, mean=0.5), real, 50))


def test_kid_is_the_unbiased_estimate() -> None:
    a, b = gaussian(7, 3, 1), gaussian(5, 3, 2, mean=1.0)

    def k(x: Any, y: Any) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within = [np.mean([k(s[i], s[j]) for i, j in product(range(len(s)), repeat=2) if i != j]) for s in (a, b)]
    between = np.mean([k(x, y) for x in a for y in b])
    assert kid(a, b, 20).value == pytest.approx(within[0] + within[1] - 2 * between)


def test_kid_of_one_distribution_is_about_zero_and_of_two_is_not() -> None:
    real = gaussian(1000, 8, 1)
    same, other = kid(gaussian(1000, 8, 2), real, 100), kid(gaussian(1000, 8, 3, mean=0.3), real, 100)
    assert abs(same.value) < width(same)
    assert other.low is not None and other.low > width(other)


def test_wide_features_are_not_resampled() -> None:
    assert frechet(gaussian(20, WIDEST + 1, 1), gaussian(20, WIDEST + 1, 2), 20).low is None


def test_errors_are_relative_and_sample_by_sample() -> None:
    want = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    found = relative_errors(want + torch.tensor([[0.0, 0.5], [1.0, 0.0]]), want)
    assert found.tolist() == pytest.approx([0.1, 1.0])
    assert summary(torch.tensor([4.0, 1.0, 2.0, 3.0, 5.0])) == {"median": 3.0, "low": 2.0, "high": 4.0, "max": 5.0}


def cell(form: str, spacing: str, errors: list[float]) -> dict[str, Any]:
    figures = {"median": sorted(errors)[len(errors) // 2], "low": min(errors), "high": max(errors), "max": max(errors)}
    return {"form": form, "spacing": spacing, "solver": "ab4", "nfe": 10, "errors": errors, "error": figures}


def test_the_verdict_is_a_sign_test_on_pairs() -> None:
    small, large = [1.0] * 20, [2.0] * 20
    rows = orderings([cell("raw", "uniform", large), cell("exponential", "uniform", small)])
    assert [(r["verdict"], r["nearer"], r["ratio"]) for r in rows] == [("ahead", 20, 2.0)]
    rows = orderings([cell("raw", "uniform", small), cell("exponential", "uniform", large)])
    assert [(r["verdict"], r["ratio"]) for r in rows] == [("behind", 0.5)]
    assert not reproduced(rows)
    mixed = small[:10] + [3.0] * 10
    assert orderings([cell("raw", "uniform", large), cell("exponential", "uniform", mixed)])[0]["verdict"] == "even"


def test_each_form_is_taken_at_its_best_spacing() -> None:
    cells = [
        cell("raw", "uniform", [1.0] * 20),
        cell("raw", "logsnr", [5.0] * 20),
        cell("exponential", "uniform", [4.0] * 20),
        cell("exponential", "logsnr", [0.5] * 20),
    ]
    (row,) = orderings_at_best(cells)
    assert (row["raw_spacing"], row["exponential_spacing"], row["verdict"]) == ("uniform", "logsnr", "ahead")
    assert [r["verdict"] for r in orderings(cells)] == ["behind", "ahead"]
