"""The tables of docs/gradients.md out of the sections' rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.gradients.analytic import FORWARDS, SPACINGS
from benchmarks.gradients.equal_time import ENGINES
from benchmarks.gradients.methods import SHARES, label_of

__all__ = ["budgets", "cases", "cost", "equal_time", "mixture", "over_steps", "overhead", "paired", "reversible"]

Rows = dict[str, Any]
TO = {"x_T": "the noise", "cond": "the conditioning", "weights": "all weights"}


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    line = "|" + "|".join([" --- ", *[" ---: "] * (len(head) - 1)]) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", line, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def small(value: float | None) -> str:
    return "–" if value is None else "0" if value == 0 else f"{value:.1e}"


def ratio(spread: list[float] | None) -> str:
    return "–" if not spread else f"{spread[1]:.2f} ({spread[0]:.2f}–{spread[2]:.2f})"


def mb(size: float) -> str:
    return f"{size / 1e6:.1f}"


def cases(rows: Rows) -> list[Rows]:
    """The cases of the cost section by kind and steps."""
    order = list(TO)
    return sorted(rows.values(), key=lambda case: (order.index(case["kind"]), case["steps"]))


def cost(case: Rows) -> str:
    """One case: all rows and columns."""
    head = ["", "error (a)", "error (b)", "peak, MB", "× floor", "evaluations, forward + backward"]
    lines = []
    for name, row in case["rows"].items():
        label = label_of(name) if not name.startswith("floor") else f"floor, {name.removeprefix('floor_')}"
        forward, backward = row["nfe"]
        spent = f"{(forward + 1) // 2} + {forward // 2}" if name.startswith("floor") else f"{forward} + {backward}"
        error = "0 (bit equal)" if row["bit_equal"] else small(row["error"])
        over = "1" if name.startswith("floor") else ratio(row.get("over_floor"))
        lines.append([label, error, small(row["error_float64"]), mb(row["peak_bytes"]), over, spent])
    failed = [f"{label_of(name)} failed: {why}\n" for name, why in case["failed"].items()]
    return "\n".join([f"To {TO[case['kind']]}, N = {case['steps']}:\n", table(head, lines), *failed])


def over_steps(rows: Rows, kind: str, what: str) -> str:
    """Every row over N: `what` is "over_floor", "peak_bytes" or "error"."""
    found = [case for case in cases(rows) if case["kind"] == kind]
    names = list(
        dict.fromkeys(name for case in found for name in case["rows"] if what != "over_floor" or "floor" not in name)
    )

    def cell(case: Rows, name: str) -> str:
        row = case["rows"].get(name, {})
        if row.get(what) is None:
            return "–"
        return (
            f"{row[what][1]:.2f}"
            if what == "over_floor"
            else mb(row[what])
            if what == "peak_bytes"
            else small(row[what])
        )

    head = [f"to {TO[kind]}", *(f"N = {case['steps']}" for case in found)]
    lines = [
        [label_of(name), *(cell(case, name) for case in found)]
        for name in names
        if not name.startswith("floor_") or name == "floor_euler"
    ]
    return table(head, [line for line in lines if any(c != "–" for c in line[1:])])


def budgets(rows: Rows) -> str:
    names = ["exact", *(f"exact_{share:g}" for share in SHARES), "full"]
    labels = ["one graph alive", *(f"{share:.0%} of plain backprop's" for share in SHARES), "plain backprop"]
    head = ["memory", *(f"{case['kind']}, N = {case['steps']}: × floor | peak, MB" for case in rows.values())]
    head = [part for cell in head for part in cell.split(" | ")]
    lines = []
    for name, label in zip(names, labels, strict=True):
        cells = [label]
        for case in rows.values():
            row = case["rows"][name]
            cells += [ratio(row["over_floor"]), mb(row["peak_bytes"])]
        lines.append(cells)
    return table(head, lines)


def overhead(rows: Rows) -> str:
    names = list(dict.fromkeys(name for case in rows.values() for name in case["rows"]))

    def cell(case: Rows, name: str) -> str:
        row = case["rows"].get(name)
        return f"{row['us_per_call'][1]:.0f}" if row else "–"

    head = ["µs for each call of the forward", *(f"to {TO[case['kind']]}" for case in rows.values())]
    titles = [label_of(n) if not n.startswith("floor") else f"floor, {n.removeprefix('floor_')}" for n in names]
    return table(head, [[t, *(cell(c, n) for c in rows.values())] for t, n in zip(titles, names, strict=True)])


def mixture(rows: Rows, spacing: str) -> str:
    """Every solver and engine on one grid: evaluations, error against the discrete and the continuous gradient."""
    steps = sorted({int(key.split("/")[1]) for key in rows if key.startswith(f"{spacing}/")})
    lines = []
    for solver in (*FORWARDS, "belm_angle"):
        for engine in rows[f"{spacing}/{steps[0]}/{solver}"]["engines"]:
            found = [rows[f"{spacing}/{n}/{solver}"]["engines"][engine] for n in steps]
            if any("nfe" in f for f in found):  # else refused at all of them
                lines.append([f"{solver}, `{engine}`", *(_two_errors(f) for f in found)])
    return table(["solver, engine", *(f"N = {n}" for n in steps)], lines)


def _two_errors(found: Rows) -> str:
    if "refused" in found:
        return "refused"
    warns = " ⚠" if found["warned"] else ""
    return f"{found['nfe']}: {small(found['discrete'])} / {small(found['continuous'])}{warns}"


def paired(rows: Rows) -> str:
    """Raw against exponential adjoint: median over the grids, worst grid in brackets, of both errors."""
    keys = [key.split("/") for key in rows if key.startswith("paired/")]
    steps = sorted({int(k[2]) for k in keys})
    head = ["solver, both ways", "form", *(f"N = {n}: evaluations | discrete | continuous" for n in steps)]
    head = [part for cell in head for part in cell.split(" | ")]
    lines = []
    for solver in dict.fromkeys(k[3] for k in keys):
        for form in ("raw", "exponential"):
            cells = [solver, form]
            for n in steps:
                found = [rows[f"paired/{s}/{n}/{solver}/{form}"]["engines"]["adjoint"] for s in SPACINGS]
                given = [f for f in found if "nfe" in f]
                cells.append(str(given[0]["nfe"]) if given else "–")
                for which in ("discrete", "continuous"):
                    values = [f[which] for f in given]
                    cells.append(f"{small(statistics.median(values))} ({small(max(values))})" if values else "refused")
            lines.append(cells)
    return table(head, lines)


def reversible(rows: Rows) -> str:
    found = [row for key, row in rows.items() if key.startswith("reversible/")]
    lines = [
        [
            f"{r['form']}, {r['spacing']}",
            str(r["steps"]),
            small(r["growth"]),
            small(r["error"]) if "refused" not in r else "refused",
        ]
        for r in found
    ]
    return table(["form, grid", "N", "growth", "error"], lines)


def equal_time(rows: Rows) -> str:
    parts = []
    for task, engines in ENGINES.items():
        lines = []
        for engine in engines:
            runs = [run for key, run in rows.items() if key.startswith(f"{task}/{engine}/")]
            if not runs:
                continue
            left = [run["after"] / run["before"] for run in runs]
            updates = statistics.median(run["updates"] for run in runs)
            each = ", ".join(f"{value:.4f}" for value in left)
            lines.append(
                (statistics.median(left), [label_of(engine), f"{updates:.0f}", f"{statistics.median(left):.4f}", each])
            )
        lines.sort(key=lambda line: (line[0] != line[0], line[0]))
        head = [f"{task}", "updates", "loss left, share of the first", "by seed"]
        parts.append(table(head, [line for _, line in lines]))
    return "\n".join(parts)
