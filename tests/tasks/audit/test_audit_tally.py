"""Counts, rates and tests."""

import itertools
import math

import pytest

from adjointdpm.tasks.audit.statistics import Rate, mcnemar
from adjointdpm.tasks.audit.tally import GRID, OTHERS, Tally


def row(exact, draws, calls=(10, 10), group="a", dropped=False, judged=True, transfer=None):
    """`exact` and `draws`: index of the bound within which the verdict changed, or None."""

    def method(tau, spent):
        changed = [tau is not None and tau <= k for k in range(3)]
        return {"taus": changed, "counts": [c and judged for c in changed], "calls": spent}

    found = {"exact": method(exact, calls[0]), "best_of_n": method(draws, calls[1])}
    if transfer:
        found["exact"]["transfer"] = transfer
    return {"group": group, "dropped": dropped, "methods": found}


ROWS = [
    row(0, None),
    row(1, 2, calls=(40, 80), group="b"),
    row(None, 2, calls=(96, 70)),
    row(0, 0, judged=False),
    row(2, None, group="b", transfer={"other": [True, True]}),
    row(1, 1, dropped=True),
    row(1, None, transfer={"other": [True, False]}),
]


def tally(rows):
    found = Tally(3, 96, ("exact", "best_of_n"))
    found.add(rows)
    return found


def test_counts_by_hand():
    found = tally(ROWS)
    assert (found.n, found.dropped, found.beyond) == (6, 1, 1)
    assert found.changed["exact"] == [2, 4, 5]
    assert found.counted["exact"] == [1, 3, 4]
    assert found.counted["best_of_n"] == [0, 0, 2]
    assert found.pairs["best_of_n"] == [[1, 0], [3, 0], [3, 1]]
    assert found.groups == {"a": [4, 2], "b": [2, 2]}
    assert found.transfer == {"other": [2, 1]}
    assert found.curve["exact"][-1] == 4
    assert found.curve["exact"][GRID // 4] == 3  # within 27 of 96 calls
    assert found.rate("exact").share == pytest.approx(4 / 6)


def test_tallies_of_parts_add_up_in_any_order():
    whole = tally(ROWS)
    for order in itertools.islice(itertools.permutations(range(3)), 4):
        parts = [ROWS[:2], ROWS[2:5], ROWS[5:]]
        found = Tally(3, 96, ("exact", "best_of_n"))
        for k in order:
            found.add(parts[k])
        assert found == whole


def test_a_stored_tally_goes_on():
    found = Tally(**tally(ROWS[:3]).as_state())
    found.add(ROWS[3:])
    assert found == tally(ROWS)


def test_results_hold_rates_intervals_and_tests():
    found = tally(ROWS).results((0.1, 0.2, 0.4))
    last = found["methods"]["best_of_n"]["rates"][-1]
    assert (last["tau"], last["hits"], last["n"]) == (0.4, 2, 6)
    assert last["low"] < last["share"] < last["high"]
    assert last["against_exact"] == {"exact_only": 3, "this_only": 1, "p": mcnemar(3, 1)}
    assert last["verdict_changed"]["hits"] == 3
    curve = found["methods"]["exact"]["curve"]
    assert len(curve["calls"]) == len(curve["share"]) == GRID and curve["calls"][-1] == 96
    assert curve["share"] == sorted(curve["share"])


def grouped(**counts):
    found = Tally(3, 96, ("exact",))
    found.groups = {name: list(pair) for name, pair in counts.items()}
    return {name: (rate["n"], rate["hits"]) for name, rate in found.results((1, 2, 3), least=5)["groups"].items()}


def test_small_groups_are_counted_together():
    assert grouped(a=(8, 3), b=(5, 1)) == {"a": (8, 3), "b": (5, 1)}
    assert grouped(a=(8, 3), b=(4, 1), c=(2, 2)) == {"a": (8, 3), OTHERS: (6, 3)}
    # the totals minus b would give c away
    assert grouped(a=(8, 3), b=(6, 1), c=(1, 1)) == {"a": (8, 3), OTHERS: (7, 2)}
    assert grouped(a=(2, 1)) == {OTHERS: (2, 1)} and grouped() == {}


@pytest.mark.parametrize(("a", "b"), [(0, 0), (5, 5), (10, 0), (0, 7), (12, 3), (30, 11)])
def test_mcnemar_is_the_binomial_test(a, b):
    from scipy.stats import binomtest

    expected = 1.0 if a + b == 0 else binomtest(a, a + b, 0.5).pvalue
    assert mcnemar(a, b) == pytest.approx(expected)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_wilson_intervals():
    from scipy.stats import binomtest

    for hits, n in ((0, 10), (3, 10), (10, 10), (51, 100)):
        low, high = Rate(hits, n).interval()
        expected = binomtest(hits, n).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((max(0.0, expected.low), min(1.0, expected.high)), abs=1e-4)
    assert Rate(0, 0).interval() == (0.0, 1.0) and Rate(0, 0).share == 0
    assert Rate(1, 3) + Rate(2, 5) == Rate(3, 8)
    assert not math.isnan(Rate(0, 0).as_dict()["share"])
