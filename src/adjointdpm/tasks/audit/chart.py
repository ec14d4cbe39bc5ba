"""Two charts: how often the verdict changes against the bound, and against the network calls spent."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from adjointdpm.report.figures import COLORS

__all__ = ["METHOD_NAMES", "calls_chart", "tau_chart"]

INK, MUTED, GRID = "#1b1f24", "#59616b", "#e1e5ea"
METHOD_NAMES = {
    "exact": "exact gradients",
    "random": "one random draw",
    "best_of_n": "best of n draws",
    "one_step": "one-step gradients",
    "adjoint": "the paper's adjoint",
}


def tau_chart(methods: Mapping[str, Any], label: str) -> bytes:
    """PNG: a line for each method over τ, bars over the 95 % intervals."""
    figure, ax = _figure()
    taus = [row["tau"] for row in next(iter(methods.values()))["rates"]]
    shift = 0.012 * (max(taus) - min(taus) or max(taus))
    for k, (name, found) in enumerate(methods.items()):
        rows = found["rates"]
        share = [row["share"] for row in rows]
        spread = [[max(0.0, s - row["low"]) for s, row in zip(share, rows, strict=True)],
                  [max(0.0, row["high"] - s) for s, row in zip(share, rows, strict=True)]]  # fmt: skip
        places = [tau + (k - (len(methods) - 1) / 2) * shift for tau in taus]
        ax.errorbar(places, share, spread, color=COLORS[k % len(COLORS)], marker="o", markersize=3.5, linewidth=1.6,
                    elinewidth=0.8, label=METHOD_NAMES.get(name, name))  # fmt: skip
    ax.set_xticks(taus, [f"{tau:g}" for tau in taus])
    return _finished(figure, ax, label)


def calls_chart(methods: Mapping[str, Any]) -> bytes:
    """PNG: the share of samples on which each method had succeeded after so many network calls."""
    figure, ax = _figure()
    for k, (name, found) in enumerate(methods.items()):
        curve = found["curve"]
        ax.step([0, *curve["calls"]], [0, *curve["share"]], where="post", color=COLORS[k % len(COLORS)],
                linewidth=1.6, label=METHOD_NAMES.get(name, name))  # fmt: skip
    return _finished(figure, ax, "network calls for each image")


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.4), dpi=200, layout="constrained", facecolor="white")
    return figure, figure.add_subplot()


def _finished(figure: Any, ax: Any, label: str) -> bytes:
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    ax.set_xlabel(label, fontsize=9, color=MUTED)
    ax.set_ylabel("verdict changed, class still shown", fontsize=9, color=MUTED)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(which="both", colors=MUTED, labelsize=8.5, length=3)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, labelcolor=INK, ncols=3, loc="outside upper left")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
