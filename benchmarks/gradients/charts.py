"""The plots of docs/gradients.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gradients.equal_time import ENGINES
from benchmarks.gradients.methods import label_of
from benchmarks.gradients.tables import cases

__all__ = ["draw"]

LINES = ("exact", "exact_ab4", "full", "reversible", "adjoint", "torchdiffeq_adams", "non-reentrant")
CURVES = (
    ("euler", "exact"), ("euler", "adjoint"), ("ab4", "exact"), ("ab4", "adjoint"), ("rk4", "exact"),
    ("rk4", "adjoint"), ("belm_angle", "reversible"), ("ab4", "adjoint_paper"), ("euler", "adjoint_euler"),
)  # fmt: skip


def draw(data: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    """Writes the pictures that the figures suffice for; returns their names."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for section, picture in (("cost", _steps), ("analytic", _mixture), ("equal_time", _descent)):
        if data.get(section) and (section != "cost" or len(cases(data[section])) > 4):
            figure = picture(data[section])
            name = f"gradients_{section}.png"
            figure.savefig(folder / name, dpi=110, bbox_inches="tight")
            made.append(name)
    return made


def _plain(label: str) -> str:
    return label.replace("`", "")


def _steps(rows: dict[str, Any]) -> Any:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4))
    found = [case for case in cases(rows) if case["kind"] == "x_T"]
    for axis, what, title in zip(
        axes, ("over_floor", "peak_bytes", "error"), ("time, × floor", "peak, MB", "gradient error (a)"), strict=True
    ):
        for name in LINES:
            points = [(case["steps"], case["rows"][name].get(what)) for case in found if name in case["rows"]]
            values = [(n, v[1] if what == "over_floor" else v / 1e6 if what == "peak_bytes" else max(v, 1e-8))
                      for n, v in points if v is not None]  # fmt: skip
            if values:
                axis.plot(*zip(*values, strict=True), "o-", ms=3, lw=1, label=_plain(label_of(name)))
        axis.set(title=title, xlabel="N", xscale="log", yscale="linear" if what == "over_floor" else "log")
        axis.set_xticks([case["steps"] for case in found], [str(case["steps"]) for case in found])
        axis.minorticks_off()
    axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("Gradient to the noise, embedded model; an error of 0 is drawn at 1e-8", y=1.02)
    return figure


def _mixture(rows: dict[str, Any]) -> Any:
    from matplotlib import pyplot as plt

    steps = sorted({int(k.split("/")[1]) for k in rows if k.startswith("logsnr/")})
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5))
    for axis, which in zip(axes, ("discrete", "continuous"), strict=True):
        for solver, engine in CURVES:
            found = [rows[f"logsnr/{n}/{solver}"]["engines"].get(engine, {}) for n in steps]
            points = [(f["nfe"], min(max(f[which], 1e-16), 1e3)) for f in found if "nfe" in f]
            if points:
                axis.plot(*zip(*points, strict=True), "o-", ms=3, lw=1, label=f"{solver}, {engine}")
        axis.set(xscale="log", yscale="log", xlabel="evaluations, forward and backward",
                 title=f"error against the {which} gradient")  # fmt: skip
        axis.minorticks_off()
        axis.set_xticks([20, 50, 100, 200, 400], ["20", "50", "100", "200", "400"])
    axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("Gaussian mixture, logSNR grid; errors below 1e-16 and above 1e3 are drawn there")
    return figure


def _descent(rows: dict[str, Any]) -> Any:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(ENGINES), figsize=(15, 4.5))
    for axis, (task, engines) in zip(axes, ENGINES.items(), strict=True):
        for number, engine in enumerate(engines):
            for key, run in rows.items():
                if key.startswith(f"{task}/{engine}/") and run["path"]:
                    first = key.endswith("/0")
                    times, losses = zip(*run["path"], strict=True)
                    axis.plot(times, [loss / run["before"] for loss in losses], color=f"C{number}", lw=1,
                              label=_plain(label_of(engine)) if first else None)  # fmt: skip
        axis.set(title=task, xlabel="seconds", ylabel="loss, share of the first", yscale="log")
        axis.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return figure
