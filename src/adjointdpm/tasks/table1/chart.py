"""The table as a figure: endpoint error over NFE, a panel for each spacing, a line for each form and solver."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from adjointdpm.report.figures import COLORS
from adjointdpm.tasks.table1.strips import EQUATION, SOLVER
from adjointdpm.tasks.table1.verdict import Row

__all__ = ["error_chart"]

INK, MUTED, GRID = "#1b1f24", "#59616b", "#e1e5ea"


def error_chart(cells: Sequence[Row]) -> bytes:
    """PNG: medians, with bars over the quartiles; both axes logarithmic."""
    from matplotlib.figure import Figure

    spacings = list(dict.fromkeys(c["spacing"] for c in cells))
    lines = list(dict.fromkeys((c["form"], c["solver"]) for c in cells))
    nfes = sorted({c["nfe"] for c in cells})
    figure = Figure(figsize=(max(5.4, 3.2 * len(spacings)), 3.4), dpi=200, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(spacings), sharey=True, squeeze=False)[0]
    for ax, spacing in zip(panels, spacings, strict=True):
        for form, solver in lines:
            row = sorted((c for c in cells if (c["form"], c["solver"], c["spacing"]) == (form, solver, spacing)),
                         key=lambda c: int(c["nfe"]))  # fmt: skip
            middle = [c["error"]["median"] for c in row]
            spread = [[c["error"]["median"] - c["error"]["low"] for c in row],
                      [c["error"]["high"] - c["error"]["median"] for c in row]]  # fmt: skip
            ax.errorbar(
                [c["nfe"] for c in row], middle, spread, color=COLORS[0 if form == "exponential" else 1],
                linestyle="-" if solver == "ab4" else "--", marker="o", markersize=3.5, linewidth=1.6, elinewidth=0.8,
                label=f"{EQUATION[form]}, {SOLVER[solver]}",
            )  # fmt: skip
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(nfes, [str(n) for n in nfes])
        ax.minorticks_off()
        ax.set_xlabel("NFE", fontsize=9, color=MUTED)
        ax.set_title(spacing, loc="left", fontsize=10, color=INK, pad=8)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        ax.tick_params(which="both", colors=MUTED, labelsize=8.5, length=3)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
    panels[0].set_ylabel("endpoint error", fontsize=9, color=MUTED)
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=8.5, labelcolor=INK,
                  ncols=len(lines), loc="outside upper left")  # fmt: skip
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
