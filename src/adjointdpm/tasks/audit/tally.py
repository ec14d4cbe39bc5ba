"""Counts over samples, all that filter mode keeps of them.

Tallies of two sets of samples add up, so a run keeps one number for each count however many batches and processes
there are, and nothing of a single sample can be read from it once there are more than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from adjointdpm.tasks.audit.statistics import Rate, mcnemar

__all__ = ["GRID", "LEAST_GROUP", "OTHERS", "Row", "Tally"]

GRID = 32  # places at which the curve over network calls is counted
LEAST_GROUP = 5  # samples of a concept that filter mode gives a rate for
OTHERS = "the rest together"
Row = Mapping[str, Any]


@dataclass
class Tally:
    """Of samples that were searched.

    Attributes:
        taus: how many bounds.
        calls: network calls that a method may make over all bounds.
        methods: names; "exact" is the first.
        n: samples that count; `dropped` had to be left alone meanwhile.
        changed, counted: by method, for each bound: verdict changed within it; and the judge agrees.
        curve: by method: counted, within (j + 1) / GRID of `calls`.
        pairs: by method, for each bound: [counted for exact alone, counted for the method alone].
        beyond: verdicts that random draws changed and exact gradients did not.
        groups: by group: [samples, counted for exact].
        transfer: by network: [found images of classes that it names right when clean, of which it is wrong on].
    """

    taus: int
    calls: int
    methods: tuple[str, ...]
    n: int = 0
    dropped: int = 0
    beyond: int = 0
    changed: dict[str, list[int]] = field(default_factory=dict)
    counted: dict[str, list[int]] = field(default_factory=dict)
    curve: dict[str, list[int]] = field(default_factory=dict)
    pairs: dict[str, list[list[int]]] = field(default_factory=dict)
    groups: dict[str, list[int]] = field(default_factory=dict)
    transfer: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.methods = tuple(self.methods)
        for name in self.methods:
            self.changed.setdefault(name, [0] * self.taus)
            self.counted.setdefault(name, [0] * self.taus)
            self.curve.setdefault(name, [0] * GRID)
            if name != "exact":
                self.pairs.setdefault(name, [[0, 0] for _ in range(self.taus)])

    def add(self, rows: Sequence[Row]) -> None:
        """Count finished samples: {"group", "dropped", "methods": {name: {"taus": [bool], "counts": [bool],
        "calls", "transfer"}}}; `taus` and `counts` say for each bound whether the verdict had changed within it, and
        whether that counts.
        """
        for row in rows:
            if row["dropped"]:
                self.dropped += 1
                continue
            self.n += 1
            for name in self.methods:
                self._add_method(name, row["methods"])
            exact = row["methods"]["exact"]
            if not exact["taus"][-1] and any(row["methods"][m]["taus"][-1] for m in self.methods if m == "best_of_n"):
                self.beyond += 1
            group = self.groups.setdefault(row["group"], [0, 0])
            group[0] += 1
            group[1] += exact["counts"][-1]
            for network, (clean, wrong) in exact.get("transfer", {}).items():
                found = self.transfer.setdefault(network, [0, 0])
                found[0] += clean
                found[1] += clean and wrong

    def _add_method(self, name: str, methods: Mapping[str, Any]) -> None:
        mine, exact = methods[name], methods["exact"]
        for k in range(self.taus):
            self.changed[name][k] += mine["taus"][k]
            self.counted[name][k] += mine["counts"][k]
            if name != "exact":
                self.pairs[name][k][0] += exact["counts"][k] and not mine["counts"][k]
                self.pairs[name][k][1] += mine["counts"][k] and not exact["counts"][k]
        if mine["counts"][-1]:
            for j in range(GRID):
                self.curve[name][j] += mine["calls"] <= (j + 1) / GRID * self.calls

    def as_state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def rate(self, method: str, tau: int = -1) -> Rate:
        """Share of samples whose verdict changed within the bound of that index while the judge agrees."""
        return Rate(self.counted[method][tau], self.n)

    def results(self, taus: Sequence[float], least: int = 1) -> dict[str, Any]:
        """The counts as rates with intervals, for results.json and the report.

        Groups of fewer than `least` samples are counted together, with the next larger one if they are too few still:
        by subtraction nothing of them can be read from the totals then.
        """
        methods = {}
        for name in self.methods:
            rows = []
            for k, tau in enumerate(taus):
                row: dict[str, Any] = {"tau": tau, **self.rate(name, k).as_dict()}
                row["verdict_changed"] = Rate(self.changed[name][k], self.n).as_dict()
                if name != "exact":
                    ours, theirs = self.pairs[name][k]
                    row["against_exact"] = {"exact_only": ours, "this_only": theirs, "p": mcnemar(ours, theirs)}
                rows.append(row)
            places = [round((j + 1) / GRID * self.calls) for j in range(GRID)]
            shares = [hits / self.n if self.n else 0.0 for hits in self.curve[name]]
            methods[name] = {"rates": rows, "curve": {"calls": places, "share": shares}}
        groups, rest = {}, Rate(0, 0)
        for name, (n, hits) in sorted(self.groups.items(), key=lambda item: item[1][0]):
            if n < least or 0 < rest.n < least:
                rest += Rate(hits, n)
            else:
                groups[name] = Rate(hits, n)
        if rest.n:
            groups[OTHERS] = rest
        transfer = {name: Rate(wrong, n).as_dict() for name, (n, wrong) in sorted(self.transfer.items())}
        return {
            "n": self.n,
            "dropped": self.dropped,
            "methods": methods,
            "groups": {name: rate.as_dict() for name, rate in sorted(groups.items())},
            "transfer": transfer,
        }
