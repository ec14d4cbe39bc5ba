"""What a gradient check found: rows of figures, one line of verdict, as plain text and as JSON-able numbers.

The error of a gradient is ||difference|| / ||reference|| over all tensors of what is differentiated, and beside it the
cosine of the two: an approximate gradient of the right direction and the wrong length is still of use to an optimiser
that normalises, and the two numbers tell the cases apart.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

__all__ = ["GradientReport", "Row"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: `engine`'s gradient with respect to `wrt`, held against `against`.

    `rel_error` and `noise` have no unit (NaN where one side is not finite), `seconds` covers one forward and backward,
    `peak_mb` is the peak of live tensor bytes / 2^20 in that time (NaN where it was not measured).
    """

    engine: str
    wrt: str
    rel_error: float
    cosine: float
    seconds: float
    peak_mb: float
    against: str = "plain backprop"
    noise: float = 0.0
    tolerance: float = 0.0
    exact: bool = True
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance, or within three times the noise of what it is held against."""
        return self.rel_error <= max(self.tolerance, 3 * self.noise)


@dataclasses.dataclass(frozen=True)
class GradientReport:
    """What was found.

    Attributes:
        rows: comparisons.
        problems, notes: what else is wrong and what to know, as sentences.
        facts: figures about the run.
        profiles: by engine, the relative error of dL/dy at each node of the ODE road, from the image back.
    """

    rows: tuple[Row, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    profiles: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No problem was noticed, and every row that promises exactness keeps the promise."""
        return not self.problems and all(row.passed for row in self.rows if row.exact)

    @property
    def verdict(self) -> str:
        """The findings in a sentence or two, worst first."""
        failed = [row for row in self.rows if row.exact and not row.passed]
        parts = list(self.problems)
        parts += [
            f"{row.engine} differs from {row.against} by {row.rel_error:.1e} for {row.wrt}, where at most "
            f"{max(row.tolerance, 3 * row.noise):.0e} is expected{': ' + row.note if row.note else ''}."
            for row in failed
        ]
        if not parts and self.rows:
            parts.append(f"The gradients are right{self._agreement()}.")
        for engine in dict.fromkeys(row.engine for row in self.rows if not row.exact):
            errors = [(row.rel_error, row.wrt) for row in self.rows if row.engine == engine]
            cosines = [row.cosine for row in self.rows if row.engine == engine]
            finite = [e for e in errors if math.isfinite(e[0])]
            if len(finite) < len(errors):
                parts.append(f"{engine} is an approximation and did not stay finite.")
            else:
                error, wrt = max(finite)
                parts.append(
                    f"{engine} is an approximation: {error:.1e} off for {wrt}, cosine {min(cosines):.4f}: "
                    f"{in_words(error, min(cosines))}."
                )
        return " ".join([*parts, *self.notes])

    def profile_lines(self) -> list[str]:
        """The error at each node, a line for each engine that is off somewhere."""
        return [
            f"{engine}, error per step from the image back: {' '.join(f'{error:.0e}' for error in profile.values())}"
            for engine, profile in self.profiles.items()
            if max(profile.values(), default=0.0) > 0
        ]

    def _agreement(self) -> str:
        """How far the rows that should be exact agree with plain backprop and with differences."""
        exact = [row for row in self.rows if row.exact]
        differences = [row for row in exact if row.against == "finite difference"]
        found = []
        if len(differences) < len(exact):
            found.append(f"exact to {max(row.rel_error for row in exact if row not in differences):.1e}")
        if differences:
            worst = max(differences, key=lambda row: row.rel_error)
            found.append(f"finite differences agree to {worst.rel_error:.1e} (own noise {worst.noise:.1e})")
        return ": " * bool(found) + "; ".join(found)

    def table(self) -> str:
        """The rows as aligned plain text, then the verdict."""
        header = ("engine", "wrt", "against", "rel. error", "noise", "cosine", "seconds", "peak MB", "")
        lines = [header] + [
            (
                row.engine,
                row.wrt,
                row.against,
                f"{row.rel_error:.1e}",
                f"{row.noise:.0e}" if row.noise else "-",
                f"{row.cosine:.6f}",
                f"{row.seconds:.2f}",
                f"{row.peak_mb:.1f}",
                ("ok" if row.passed else "FAILS" if row.exact else "approximate")
                + (f", {row.note}" if row.note else ""),
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        text += self.profile_lines()
        text += [f"{name}: {value}" for name, value in self.facts.items()]
        return "\n".join([*text, self.verdict])

    def as_dict(self) -> dict[str, Any]:
        """`{"results": [{"engine", "wrt", "rel_error", "cosine", "seconds", "peak_mb", ...}], "ok", "verdict", ...}`.

        JSON knows no NaN: a figure that is not finite or was not measured is None.
        """
        results = [
            {key: _number(value) for key, value in (dataclasses.asdict(row) | {"passed": row.passed}).items()}
            for row in self.rows
        ]
        facts = {name: _number(value) for name, value in self.facts.items()}
        words = {"verdict": self.verdict, "problems": list(self.problems), "notes": list(self.notes)}
        profiles = {name: {str(n): _number(e) for n, e in p.items()} for name, p in self.profiles.items()}
        return {"results": results, "ok": self.ok, **words, **facts, "profiles": profiles}

    def __str__(self) -> str:
        return self.table()


def in_words(error: float, cosine: float) -> str:
    """What an approximate gradient of this error is good for."""
    if error < 1e-3:
        return "as good as exact"
    if error < 0.1:
        return "good enough to optimise with"
    if cosine > 0.95:
        return "the right direction, the wrong length"
    if cosine > 0.5:
        return "roughly the right direction"
    return "not a direction to follow"


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
