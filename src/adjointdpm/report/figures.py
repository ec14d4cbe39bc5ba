"""Charts as PNG bytes: curves over steps, and grouped bars.

Built on matplotlib's `Figure` alone, so that no window system or global state is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORS", "bar_chart", "curves"]

COLORS = ("#1f5fa8", "#c2571a", "#4b8b3b", "#8a4fa3", "#7a6a58", "#2a9d9d")
INK, MUTED, GRID = "#1b1f24", "#59616b", "#e1e5ea"


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=200, layout="constrained", facecolor="white")
    axes = [figure.add_subplot(1, panels, k + 1) for k in range(panels)]
    for ax in axes:
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            ax.spines[side].set_color(MUTED)
        ax.tick_params(which="both", colors=MUTED, labelsize=8.5, length=3)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=10, color=INK, pad=8)


def curves(
    panels: Mapping[str, Mapping[str, Sequence[float]]], x_label: str, log: bool = True, height: float = 2.6
) -> bytes:
    """One panel per entry, each with its named curves over 1, 2, …; a single unnamed curve needs no legend.

    `log` draws a panel's values on a logarithmic axis where all of them are positive.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(3.6 * len(panels) if len(panels) > 1 else 5.4, height, len(panels))
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for color, (name, values) in zip(COLORS, lines.items(), strict=False):
            steps = range(1, len(values) + 1)
            marker: Any = "o" if len(values) == 1 else None
            ax.plot(steps, values, color=color, linewidth=1.6, marker=marker, markersize=4, label=name)
        if log and all(v > 0 for values in lines.values() for v in values):
            ax.set_yscale("log")
        if len(lines) > 1:
            ax.legend(frameon=False, fontsize=8.5, labelcolor=INK)
        ax.set_xlabel(x_label, fontsize=9, color=MUTED)
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        _title(ax, title)
    return _png(figure)


def bar_chart(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    y_label: str,
    title: str = "",
    percent: bool = False,
    limits: tuple[float, float] | None = None,
) -> bytes:
    """Bars side by side for each group, one colour per series, each with its value above it.

    Values outside `limits` are drawn up to the limit and still labelled with their value.
    """
    import textwrap

    figure, (ax,) = _figure(max(5.4, 1.15 * len(groups) + 1.2), 3.2)
    width = 0.8 / len(series)
    low, high = limits or (min(0.0, *(v for s in series.values() for v in s)), None)
    for k, (color, (name, values)) in enumerate(zip(COLORS, series.items(), strict=False)):
        places = [g + (k - (len(series) - 1) / 2) * width for g in range(len(groups))]
        shown = [max(v, low) if high is None else min(max(v, low), high) for v in values]
        ax.bar(places, shown, width * 0.92, color=color, label=name)
        for x, y, value in zip(places, shown, values, strict=True):
            text = f"{100 * value:.0f}" if percent else f"{value:.3g}"
            ax.text(x, max(y, 0), text, ha="center", va="bottom", fontsize=7, color=INK)
    ax.set_ylim(low, high)
    ax.axhline(0, color=MUTED, linewidth=0.8)
    ax.set_xticks(range(len(groups)), [textwrap.fill(g, 13) for g in groups])
    if percent:
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    ax.set_ylabel(y_label, fontsize=9, color=MUTED)
    ax.legend(
        frameon=False, fontsize=8.5, labelcolor=INK, ncols=len(series), loc="lower left", bbox_to_anchor=(0, 1.02)
    )
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    return _png(figure)
