"""docs/cuda.md, from the figures alone."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parent.parent / "docs" / "cuda.md"
#: How many forwards and VJPs a row makes for N calls; rows without one run the compiler's kernels or the network's own.
WORK = {
    "floor": (2, -1, 1),
    "exact": (2, -1, 1),
    "checkpoint, reentrant": (2, 0, 1),
    "checkpoint, non-reentrant": (2, 0, 1),
    "exact, branches one after the other": (2, -1, 1),
    "exact, torch.compile": (2, -1, 1),
    "reversible": (2, 1, 1),
    "adjoint": (4, 0, 4),
    "plain backprop": (1, 0, 1),
}


def page(found: dict[str, Any]) -> str:
    """The page as Markdown."""
    machine = found["machine"]
    peak = machine.get("matmul_flops", 0)
    runs = max(len(row["seconds"]) for size in found["sizes"] for row in size["rows"].values())
    lines = [
        "# On a GPU, at the sizes that people use",
        "",
        f"Written by `python -m benchmarks.cuda`. {machine['device']}, torch {machine['torch']}, Python "
        f"{machine['python']}. U-Nets of the sizes of Stable Diffusion 1.5 (512 × 512 images) and SDXL (1024 × 1024) "
        "with random weights, bfloat16, one guided image (both branches in one batch of two), Euler (= DDIM) with a "
        "float32 state, gradients to the noise and the conditioning; the loop alone, without text encoder and decoder.",
        "",
        f"- *Seconds*: {'one timed run' if runs == 1 else f'median of {runs} timed runs'}, after a warm-up of three "
        "steps. *Peak*: `max_memory_allocated`, with the weights.",
        "- *Of the device's peak*: FLOPs of the forwards and vector-Jacobian products that the row makes (counted by "
        "`torch.utils.flop_counter`) over its time, as a share of what a bfloat16 product of two 8192 × 8192 matrices "
        f"reaches in the same process ({peak / 1e12:.0f} TFLOP/s).",
        "- *Error*: relative to the gradient of `exact`, the larger of both. cuDNN's and cuBLAS's kernels may add in "
        "another order from one run to the next, which bfloat16 shows. `adjoint` and `one_step` are approximations; a "
        "network of random weights says nothing of how good they are on a trained one.",
        "- An image a batch leaves such a card mostly waiting for the next kernel, so the shares of the peak are low, "
        "and rows that launch more of them (one branch after the other) take longer for the same work.",
    ]
    for size in found["sizes"]:
        lines += _size(size, peak)
    if "plan" in found:
        lines += _plan(found["plan"])
    else:
        lines += [
            "",
            "`ad.plan` was not measured in this run: its predictions are compared with measurements on a CPU only.",
        ]
    return "\n".join([*lines, ""])


def _size(size: dict[str, Any], device_flops: float) -> list[str]:
    steps, forward = size["steps"], size["forward_flops"]
    vjp = size["forward_vjp_flops"] - forward
    rows = size["rows"]
    floor = median(rows["floor"]["seconds"]) if rows.get("floor", {}).get("seconds") else None
    lines = [
        "",
        f"## {size['size']}, {steps} steps",
        "",
        f"{size['parameters'] / 1e6:,.0f} million weights ({size['weight_bytes'] / 1e9:.2f} GB); a guided call "
        f"{forward / 1e12:.2f} TFLOP, its VJP {vjp / 1e12:.2f}.",
        "",
        "|  | seconds | × floor | peak, GB | of the device's peak | error |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in sorted(rows.items(), key=lambda item: list(rows).index(item[0])):
        if "failed" in row:
            lines.append(f"| {name} | {row['failed']} | | | | |")
        elif not row["seconds"]:
            lines.append(f"| {name} | not measured | | | | |")
        else:
            seconds = median(row["seconds"])
            share = "–"
            if name in WORK and device_flops:
                per, more, products = WORK[name]
                work = (per * steps + more) * forward + products * steps * vjp
                share = f"{work / seconds / device_flops:.0%}"
            over = "–" if floor is None else f"{seconds / floor:.2f}"
            error = "–" if "error" not in row else "0 (bit equal)" if row["error"] == 0 else f"{row['error']:.1e}"
            lines.append(f"| {name} | {seconds:.2f} | {over} | {row['peak_bytes'] / 1e9:.2f} | {share} | {error} |")
    compiled = rows.get("exact, torch.compile", {})
    if "first_seconds" in compiled and compiled["seconds"]:
        lines += ["", f"The first compiled gradient took {compiled['first_seconds']:.0f} s."]
    return lines


def _plan(plan: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## The planner on this device",
        "",
        f'`ad.plan(gen, {plan["steps"]}, "{plan["memory"]}")` for a whole `StableDiffusionPipeline` of version 1.5\'s '
        "size (random weights, bfloat16, its own DDIM scheduler, 512 × 512, decoder included), and what then was "
        "measured.",
        "",
        "|  | planned, s | measured, s | planned, GB | measured, GB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in plan["rows"].items():
        seconds, size = row["planned_seconds"], row["planned_bytes"]
        off = f"{seconds / row['seconds'] - 1:+.0%}" if row["seconds"] else "–"
        larger = f"{size / row['peak_bytes'] - 1:+.1%}" if row["peak_bytes"] else "–"
        lines.append(
            f"| {name} | {seconds:.2f} ({off}) | {row['seconds']:.2f} | {size / 1e9:.2f} ({larger}) | "
            f"{row['peak_bytes'] / 1e9:.2f} |"
        )
    return lines
