"""docs/cost.md out of the figures of `benchmarks.cost`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

NAMES = {
    "floor": "floor, by hand",
    "pipeline": "`differentiable(pipe)`",
    "ode": '`differentiable(pipe, solver="euler")`',
    "plain": "plain backprop",
    "reentrant": "`torch.utils.checkpoint`, reentrant",
    "non-reentrant": "`torch.utils.checkpoint`, non-reentrant",
}
TITLES = {"x_T": "Gradient to the noise", "weights": "Gradient to the noise and all weights of the U-Net"}
TIME_LIMIT, MEMORY_LIMIT = 1.10, 1.10
INTRO = """# What a gradient costs

Written by `python -m benchmarks.cost`. The embedded model: 16 × 16 latents of 8 channels, guided (both branches in
one batch), DDIM, 64 × 64 images, decoding in both passes. Machine: {processor},
{threads} threads, Python {python}, torch {torch}. Times are medians of {rounds} turns, in each of
which every method runs; *× floor* is the median ratio to the floor within a turn, with its quartiles.

The *floor* ([`benchmarks/floor.py`](../benchmarks/floor.py), which imports nothing of the library) is what no exact
method with one denoiser graph alive can undercut: N forwards, N − 1 recomputations, N vector-Jacobian products. *Error*
is ‖Δ‖₂/‖g‖₂ over all that is differentiated, against plain backprop through the pipeline. Methods that step
by their own code (floor, ODE road, checkpoints) round the same steps otherwise, which a ReLU of the decoder can turn
into a visible difference; the pipeline road runs the very same code.
"""


def write_page(result: dict[str, Any], path: Path) -> None:
    machine = {**result["machine"], "rounds": result["times"][0]["rounds"]}
    parts = [INTRO.format(**machine), "## Time\n"]
    parts += [_time_table(row) for row in result["times"]]
    parts += [_time_verdict(result["times"]), "## Memory\n", *_memory_tables(result["memory"])]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(parts))


def _time_table(row: dict[str, Any]) -> str:
    lines = [
        f"{TITLES[row['kind']]}, batch {row['batch']}, {row['steps']} steps:\n",
        "| method | seconds | × floor | error |",
        "| --- | --- | --- | --- |",
    ]
    for method, seconds in row["seconds"].items():
        error = f"{row['errors'][method]:.1e}"
        lines.append(f"| {NAMES[method]} | {seconds:.2f} | {_over_floor(row, method)} | {error} |")
    return "\n".join(lines) + "\n"


def _over_floor(row: dict[str, Any], method: str) -> str:
    ratios = row["over_floor"][method]
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def _time_verdict(rows: list[dict[str, Any]]) -> str:
    lines = []
    for method in ("pipeline", "ode"):
        worst = max(statistics.median(row["over_floor"][method]) for row in rows)
        met = "met" if worst <= TIME_LIMIT else "not met"
        lines.append(f"{NAMES[method]}: at most {worst:.2f} × the floor (target {TIME_LIMIT:.2f}: {met}).")
    return "\n".join(lines) + "\n"


def _memory_tables(rows: list[dict[str, Any]]) -> list[str]:
    parts = []
    for kind, title in TITLES.items():
        few, many = (row for row in rows if row["kind"] == kind)
        lines = [
            f"{title}, batch 1, MiB: peak of live tensors; growth of the resident memory of a process.\n",
            "| method | {0} steps | {1} steps | ratio | resident, {0} | resident, {1} |".format(
                few["steps"], many["steps"]
            ),
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for method in few["peak_bytes"]:
            a, b = few["peak_bytes"][method], many["peak_bytes"][method]
            r, s = few["rss_bytes"][method], many["rss_bytes"][method]
            lines.append(f"| {NAMES[method]} | {_mib(a)} | {_mib(b)} | {b / a:.2f} | {_mib(r)} | {_mib(s)} |")
        parts.append("\n".join(lines) + "\n")
    for method in ("pipeline", "ode"):
        pairs = [[row["peak_bytes"][method] for row in rows if row["kind"] == kind] for kind in TITLES]
        worst = max(many / few for few, many in pairs)
        met = "met" if worst <= MEMORY_LIMIT else "not met"
        parts.append(f"{NAMES[method]}: {worst:.2f} × from few to many steps (target {MEMORY_LIMIT:.2f}: {met}).")
    return [*parts[:-1], parts[-1] + "\n"]


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"
