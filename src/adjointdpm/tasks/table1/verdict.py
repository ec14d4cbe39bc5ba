"""Is eq. 11 ahead of eq. 6?  Paired over the noises, for each spacing, solver and NFE, and at each form's best spacing.

Both forms of a pair start from the same noises and spend the same evaluations, so the share of noises on which eq. 11
ends nearer to the converged solution is a sign test: ahead or behind where the share's 95 % interval does not hold one
half, else even.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from adjointdpm.zoo.measure import wilson

__all__ = ["Row", "best", "find", "orderings", "orderings_at_best", "reproduced"]

Row = dict[str, Any]  # a cell's figures, as in its JSON


def find(cells: Sequence[Row], **wanted: Any) -> Row | None:
    """The first cell with these values, or None."""
    return next((c for c in cells if all(c[name] == value for name, value in wanted.items())), None)


def best(cells: Sequence[Row], form: str, solver: str, nfe: int) -> Row | None:
    """The form's cell of the lowest median error over the spacings."""
    fitting = [c for c in cells if (c["form"], c["solver"], c["nfe"]) == (form, solver, nfe)]
    return min(fitting, key=lambda c: float(c["error"]["median"]), default=None)


def orderings(cells: Sequence[Row]) -> list[Row]:
    """One comparison for each (NFE, solver, spacing) that has both forms, in the order of the cells."""
    found = []
    for cell in cells:
        place = {name: cell[name] for name in ("nfe", "solver", "spacing")}
        other = find(cells, form="exponential", **place)
        if cell["form"] == "raw" and other is not None:
            found.append({**place, **_paired(cell, other)})
    return found


def orderings_at_best(cells: Sequence[Row]) -> list[Row]:
    """The same with each form at the spacing that suits it best, for each (NFE, solver)."""
    found = []
    for nfe, solver in dict.fromkeys((c["nfe"], c["solver"]) for c in cells):
        raw, exponential = (best(cells, form, solver, nfe) for form in ("raw", "exponential"))
        if raw is not None and exponential is not None:
            spacings = {"raw_spacing": raw["spacing"], "exponential_spacing": exponential["spacing"]}
            found.append({"nfe": nfe, "solver": solver, **spacings, **_paired(raw, exponential)})
    return found


def reproduced(rows: Sequence[Row]) -> bool:
    """Whether eq. 11 is ahead in all of these comparisons."""
    return all(row["verdict"] == "ahead" for row in rows)


def _paired(raw: Row, exponential: Row) -> Row:
    pairs = list(zip(raw["errors"], exponential["errors"], strict=True))
    nearer = sum(e < r for r, e in pairs)
    low, high = wilson(nearer, len(pairs))
    return {
        "raw": raw["error"]["median"],
        "exponential": exponential["error"]["median"],
        "ratio": median(r / e for r, e in pairs) if all(e > 0 for _, e in pairs) else None,
        "nearer": nearer,
        "noises": len(pairs),
        "verdict": "ahead" if low > 0.5 else "behind" if high < 0.5 else "even",
    }
