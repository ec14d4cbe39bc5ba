"""docs/table1.md, from the figures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adjointdpm.tasks.table1.config import QUICK
from adjointdpm.tasks.table1.control import FASTEST
from adjointdpm.tasks.table1.outcome import cell_text, headline
from adjointdpm.tasks.table1.strips import EQUATION, SOLVER
from adjointdpm.tasks.table1.verdict import find
from studies.template import page_template

__all__ = ["PAPER", "page"]

PAPER = {10: (9.50, 4.36), 20: (8.27, 2.90), 50: (5.64, 2.58)}  # FID on CIFAR-10 with eq. 6 and eq. 11, its Table 1


def page(results: dict[str, Any]) -> str:
    """The page as Markdown: every figure in it comes from `results`, but for the paper's own."""
    cells, config = results["cells"], results["config"]
    template = page_template(Path(__file__).parent)
    lines = dict.fromkeys((c["form"], c["spacing"], c["solver"]) for c in cells)
    nfes = sorted(config["nfes"])

    def table(figure: str) -> list[str]:
        rows = []
        for form, spacing, solver in lines:
            found = [find(cells, form=form, spacing=spacing, solver=solver, nfe=n) for n in nfes]
            values = ["–" if c is None else cell_text(c[figure], figure) for c in found]
            rows.append(f"| {EQUATION[form]} | {spacing} | {SOLVER[solver]} | {' | '.join(values)} |")
        return rows

    return template.render(
        r=results,
        config=config,
        nfes=nfes,
        headline=headline(results),
        quick=config["noises"] == QUICK["noises"],
        paper=PAPER,
        table=table,
        ratios=_ratios(cells, nfes),
        best=_best(results, nfes),
        tally=_tally(results["orderings"]),
        smallest=min(c["error"]["median"] for c in cells),
        solver=SOLVER,
        fastest=FASTEST,
        time=f"{minutes / 60:.1f} hours" if (minutes := results["seconds"] / 60) > 90 else f"{minutes:.0f} minutes",
        where=_where,
    )


def _where(environment: dict[str, Any]) -> str:
    if environment["device"] != "cpu":
        return str(environment["device"])
    return "one thread of a CPU" if environment["threads"] == 1 else f"{environment['threads']} threads of a CPU"


def _best(results: dict[str, Any], nfes: list[int]) -> list[str]:
    """A row an NFE: the paper's FIDs, then for each solver both forms at their best spacing."""
    rows = []
    for nfe in nfes:
        fid = PAPER.get(nfe)
        row = [str(nfe), *(("–", "–") if fid is None else (f"{fid[0]:.2f}", f"{fid[1]:.2f}"))]
        for solver in SOLVER:
            found = find(results["at_best"], nfe=nfe, solver=solver)
            if found is None:
                row += ["–", "–", "–"]
                continue
            row.append(f"{found['raw']:.2g} ({found['raw_spacing']})")
            row.append(f"{found['exponential']:.2g} ({found['exponential_spacing']})")
            row.append(f"{found['verdict']}, {found['nearer']} of {found['noises']}")
        rows.append(f"| {' | '.join(row)} |")
    return rows


def _ratios(cells: list[dict[str, Any]], nfes: list[int]) -> list[str]:
    """Rows of the largest ratio of neighbouring steps in a form's own clock, on the steps of torchdiffeq's cells."""
    rows = []
    for form, spacing in dict.fromkeys((c["form"], c["spacing"]) for c in cells):
        found = [find(cells, form=form, spacing=spacing, solver="explicit_adams", nfe=n) for n in nfes]
        values = ["–" if c is None else f"{c['step_ratio']:.1f}" for c in found]
        rows.append(f"| {EQUATION[form]} | {spacing} | {' | '.join(values)} |")
    return rows


def _tally(orderings: list[dict[str, Any]]) -> dict[str, int]:
    """How many of the pairs eq. 11 is ahead, even, behind in."""
    return {word: sum(r["verdict"] == word for r in orderings) for word in ("ahead", "even", "behind")}
