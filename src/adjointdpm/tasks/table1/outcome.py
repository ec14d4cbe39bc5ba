"""What a run leaves behind: table1.json with every figure, the sample strips, and a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from adjointdpm.formats import save_png
from adjointdpm.report import Chart, Facts, Pictures, Section, Table, Text, render_report
from adjointdpm.runs import RunFolder, atomic_write
from adjointdpm.tasks.table1.chart import error_chart
from adjointdpm.tasks.table1.config import Table1Config
from adjointdpm.tasks.table1.measure import Reference, summary
from adjointdpm.tasks.table1.strips import EQUATION, SOLVER, strip
from adjointdpm.tasks.table1.verdict import Row, find, orderings, orderings_at_best, reproduced

__all__ = ["REPORT_FILE", "RESULTS_FILE", "headline", "strip_file", "write_outcome"]

RESULTS_FILE, REPORT_FILE = "table1.json", "report.html"


def strip_file(nfe: int) -> str:
    return f"strip-{nfe}.png"


def write_outcome(
    run: RunFolder,
    config: Table1Config,
    cells: Sequence[Row],
    want: Reference,
    pictures: Mapping[str, Tensor],
    floor: float | None,
    control: tuple[Table1Config, Reference, Sequence[Row]] | None,
) -> dict[str, Any]:
    """Strips and report first, then the results, the record last; returns the results.

    Args:
        run, config: the run and what it was asked.
        cells: the figures of all cells.
        want: the converged solutions.
        pictures: (n, 3, H, W) 8 bits: "reference" and the first images of each cell by its key.
        floor: Fréchet distance of two sets of real images.
        control: the same of the network without its fast time features, where it has some.
    """
    at_best = orderings_at_best(cells)
    results = {
        "config": run.record["config"],
        "model": run.record["identity"],
        "environment": run.record["environment"],
        "resumed_in": run.record.get("resumed_in", []),
        "reference": {"steps": 2 * config.reference_steps, "change": summary(want.change)},
        "real_floor": floor,
        "seconds": round(sum(float(c["seconds"]) for c in cells), 1),
        "reproduced": reproduced(at_best),
        "at_best": at_best,
        "orderings": orderings(cells),
        "cells": list(cells),
        "control": None if control is None else _control(*control),
    }
    strips = {nfe: strip(pictures, [c for c in config.cells if c.nfe == nfe]) for nfe in sorted(set(config.nfes))}
    for nfe, sheet in strips.items():
        save_png(sheet, run.path / strip_file(nfe))
    atomic_write(run.path / REPORT_FILE, _report(run, config, results, strips))
    atomic_write(run.path / RESULTS_FILE, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    run.finish("finished", {"reproduced": results["reproduced"], "seconds": results["seconds"]})
    return results


def _control(config: Table1Config, want: Reference, cells: Sequence[Row]) -> dict[str, Any]:
    change = {"steps": 2 * config.reference_steps, "change": summary(want.change)}
    return {"noises": config.noises, "reference": change, "orderings": orderings(cells), "cells": list(cells)}


def headline(results: Mapping[str, Any]) -> str:
    """The answer in a sentence."""
    rows = results["at_best"]
    behind = [f"NFE {r['nfe']} ({SOLVER[r['solver']]}: {r['verdict']})" for r in rows if r["verdict"] != "ahead"]
    if not rows:
        return "Only one of the two forms was run."
    if not behind:
        return "Eq. 11 is ahead of eq. 6 at every NFE and with both solvers, each form at its best spacing."
    return f"Each form at its best spacing, eq. 11 is ahead of eq. 6 but for {', '.join(behind)}."


def _report(run: RunFolder, config: Table1Config, results: dict[str, Any], strips: Mapping[int, Any]) -> str:
    nfes, change = sorted(set(config.nfes)), results["reference"]["change"]
    primary = Table(
        ["", *(f"NFE {n}" for n in nfes)], _rows(config, results, "error"),
        "Endpoint error ‖x − x*‖ / ‖x*‖ at the end time: median over the noises (quartiles).",
    )  # fmt: skip
    sections = [
        Section(
            "Endpoint error", [primary, Chart(error_chart(results["cells"]), "Endpoint error over NFE", width=960)]
        ),
        Section("Eq. 11 against eq. 6, noise by noise", [_pairs(results["orderings"])]),
    ]
    if results["control"]:
        words = "The same network without the features of its time embedding that turn fastest (see `control.py`)."
        sections.append(Section("Control: smooth in time", [Text(words), _pairs(results["control"]["orderings"])]))
    if config.images:
        distances = [
            Table(["", *(f"NFE {n}" for n in nfes)], _rows(config, results, name), caption)
            for name, caption in (
                ("frechet", "Fréchet distance (95 % interval)."),
                ("kid", "KID × 1000 (95 % interval)."),
            )
        ]
        words = f"{config.images} images from the same noises. The model's own bias is in every figure."
        if results["real_floor"] is not None:
            words += f" Two sets of real images are {results['real_floor']:.2f} apart."
        sections.append(Section("Distance to real images", [Text(words), *distances]))
    sections += [
        Section(f"Samples at NFE {n}", [Pictures([""], [[sheet]], size=sheet.width)]) for n, sheet in strips.items()
    ]
    converged = f"half as many end {change['median']:.1e} away (median, at most {change['max']:.1e})"
    facts = [
        ("noises", str(config.noises)),
        ("reference", f"{results['reference']['steps']} Runge-Kutta steps; {converged}"),
        ("time", f"{results['seconds']:.0f} s in the cells"),
    ]
    sections.append(Section("How", [Facts(facts)]))
    versions = run.record["environment"]["versions"]
    footer = f"adjointdpm {versions['adjointdpm']}, torch {versions['torch']}; started {run.record['started']}."
    return render_report("Table 1: eq. 6 against eq. 11", headline(results), sections, footer)


def _pairs(orderings: Sequence[Row]) -> Table:
    header = ["", "eq. 6", "eq. 11", "eq. 6 / eq. 11", "eq. 11 nearer", "eq. 11 is"]
    rows = []
    for r in orderings:
        ratio = "–" if r["ratio"] is None else f"{r['ratio']:.2f}"
        figures = [f"{r['raw']:.2g}", f"{r['exponential']:.2g}", ratio, f"{r['nearer']} / {r['noises']}", r["verdict"]]
        rows.append([f"NFE {r['nfe']}, {r['spacing']}, {SOLVER[r['solver']]}", *figures])
    return Table(header, rows, "Medians over the noises of both errors and of their ratio.")


def _rows(config: Table1Config, results: dict[str, Any], figure: str) -> list[list[str]]:
    lines = dict.fromkeys((c.form, c.spacing, c.solver) for c in config.cells)
    found = []
    for form, spacing, solver in lines:
        row = [f"{EQUATION[form]}, {spacing}, {SOLVER[solver]}"]
        for nfe in sorted(set(config.nfes)):
            cell = find(results["cells"], form=form, spacing=spacing, solver=solver, nfe=nfe)
            row.append(cell_text(cell[figure], figure) if cell else "–")
        found.append(row)
    return found


def cell_text(value: Mapping[str, float | None] | None, figure: str) -> str:
    """One figure with its interval, for a table."""
    if value is None:
        return "–"
    if figure == "error":
        return f"{value['median']:.2g} ({value['low']:.2g}–{value['high']:.2g})"
    factor, digits = (1000.0, 2) if figure == "kid" else (1.0, 2)
    middle, low, high = (
        None if value[k] is None else f"{factor * float(value[k] or 0):.{digits}f}" for k in ("value", "low", "high")
    )
    return f"{middle}" if low is None else f"{middle} ({low}–{high})"
