"""The findings of `check` as tables: engines against plain backprop, plain backprop against finite differences.

They fit a terminal of 80 columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from adjointdpm.cli.finding import Finding

__all__ = ["tables"]


def tables(findings: Sequence[Finding]) -> list[Table]:
    """One table of each kind of which there are rows."""
    differences = [finding for finding in findings if finding.is_difference]
    engines = [finding for finding in findings if not finding.is_difference]
    made = [_engines(engines)] if engines else []
    return [*made, _differences(differences)] if differences else made


def _engines(findings: Sequence[Finding]) -> Table:
    title = "Engines against plain backprop of the same call"
    table = _table(title, "engine", "road", "wrt", "error", "cosine", "sec", "peak MB", "")
    for finding in findings:
        row = finding.row
        figures = (f"{row.rel_error:.1e}", f"{row.cosine:.4f}", f"{row.seconds:.1f}", f"{row.peak_mb:.1f}")
        table.add_row(row.engine, finding.road, row.wrt, *figures, _mark(finding))
    return table


def _differences(findings: Sequence[Finding]) -> Table:
    title = "Plain backprop against directional finite differences"
    table = _table(title, "road", "dtype", "wrt", "error", "noise", "")
    for finding in findings:
        row = finding.row
        table.add_row(finding.road, finding.dtype, row.wrt, f"{row.rel_error:.1e}", f"{row.noise:.0e}", _mark(finding))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(
            column, justify="right" if column in ("error", "noise", "cosine", "sec", "peak MB") else "left"
        )
    return table


def _mark(finding: Finding) -> str:
    row = finding.row
    return ("ok" if row.passed else "FAILS" if row.exact else "approx.") + (f", {row.note}" if row.note else "")
