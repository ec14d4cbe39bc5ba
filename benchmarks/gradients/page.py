"""docs/gradients.md out of the JSON of the sections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.gradients import tables
from benchmarks.gradients.charts import draw
from benchmarks.gradients.equal_time import RATES
from benchmarks.gradients.rivals import TOLERANCE
from benchmarks.gradients.targets import verdicts

__all__ = ["print_tables", "write_page"]

Data = dict[str, dict[str, Any]]
INTRO = """# Gradient engines side by side

Written by `python -m benchmarks.gradients`. {machine}

The embedded U-Net without guidance, batch 1, 16 × 16 latents of 8 channels, float32: one evaluation of the field is
one call of the network on one sample. The grid is even in t, which every row accepts (`belm` too, whose steps must not
shrink too fast), and ends at the schedule's last time above σ = 0, so that N steps of Euler are N calls. What is
differentiated is the noise alone, the conditioning alone, or all weights alone. Rows take turns in one process, in an
order drawn anew; *× floor* is the median, with quartiles, of the ratios to the floor on either side in the same turn.

- The *floor* ([`benchmarks/gradients/floor.py`](../benchmarks/gradients/floor.py), which imports nothing of the
  library) is N calls, N − 1 recomputations and N vector-Jacobian products by hand; N counts calls, so a row with four
  stages has a floor of four times as many. `adjoint`, torchdiffeq and torchode are held against the floor of the exact
  gradient at the same N.
- *Error (a)*: ‖Δ‖₂/‖g‖₂ over all that is differentiated, against plain backprop through the same forward in the same
  dtype (for torchdiffeq and torchode: through their own steps). *Error (b)*: against that in float64.
- *Peak*: bytes of live tensors (`adjointdpm.numerics.LiveTensorMeter`), exact and repeatable; weights not counted.
- torchdiffeq gets dy/dρ = ε̂ with `t` = the grid, as the paper's code does, `explicit_adams` with `max_order=5`
  (AB4). Its adaptive solver and torchode's have tolerances of {tolerance:g}. torchode has no solver for uneven fixed
  grids, so its rows are adaptive; they stop at no node in the forward and, in `JointBacksolveAdjoint`, at every node
  backward.
  `AutoDiffAdjoint` is plain backprop through torchode's steps, so its error (a) is 0 by definition. `BacksolveAdjoint`
  maps the field over samples with torch.func.vmap, which fails on the look-up of times in a discrete schedule; for one
  sample it is the same method as the joint one, and is left out.
- Rows that cost many times the floor are timed at N = 10 only, the adaptive ones in a single turn but for the noise; at
  N = 40 and 80 there are the rows that matter, timed to the noise.
"""
NOTHING = """Microseconds of wall time, forward and backward together with all that the solver does, for each call that
the forward makes of a network that does next to nothing. A row of torchdiffeq or torchode evaluates more often than it
calls in its forward, and all of that is in its figure.
"""
MIXTURE = """16 dimensions, six modes of width 0.3, float64, no guidance; a curved metric. Errors of the gradient to
x_T, relative per sample, medians over {samples} samples. *Discrete*: against the exact gradient of the same forward.
*Continuous*: against the gradient of the flow itself, by {steps} Runge-Kutta steps (which differs by {difference} from
that of half as many). An exact gradient is as far from the continuous one as its sampler is from the flow; the adjoint
is neither. `adjoint` is the default (Runge-Kutta in each interval from the stored state), `adjoint_euler`, `_heun`,
`_ab2`, `_ab4` other backward solvers on the stored trajectory, `adjoint_paper` ab4 with the trajectory solved again.
The reversible engine refuses grids whose rounding errors grow beyond 1e5. Evaluations are forward and backward.
"""
TIME = """Adam (rates {rates}), {steps} steps of the sampler, {seconds:g} s of wall time each, decoding included; the
loss is measured at the end, without a gradient, with the row's own sampler: DDIM, except for `reversible` (belm),
`adjoint` preset "paper" (ab4) and torchdiffeq (explicit_adams), each with a target picture of its own sampler.
The rate is one for all rows, after a look at 0.003 to 0.1 with plain backprop on the first seed, so if anything it
suits exact gradients. Losses of different samplers are compared as shares of their own first loss.
"""


def load(results: Path) -> tuple[Data, dict[str, Any]]:
    data, machine = {}, {}
    for path in sorted(results.glob("*.json")):
        whole = json.loads(path.read_text())
        data[path.stem], machine = whole["rows"], whole["machine"]
    return data, machine


def write_page(results: Path, docs: Path) -> None:
    data, machine = load(results)
    if not data:
        raise SystemExit(f"no figures in {results}: measure first")
    pictures = draw(data, docs / "img")
    says = "Machine: {processor}, {threads} threads, Python {python}, torch {torch}.".format(**machine)
    parts = [INTRO.format(machine=says, tolerance=TOLERANCE), *_body(data, pictures)]
    (docs / "gradients.md").write_text("\n".join(parts).rstrip() + "\n")


def print_tables(data: Data) -> None:
    print("\n".join(_body(data, [])))


def _body(data: Data, pictures: list[str]) -> list[str]:
    def picture(section: str, words: str) -> list[str]:
        name = f"gradients_{section}.png"
        return [f"![{words}](img/{name})\n"] if name in pictures else []

    parts = ["## Targets\n", targets(data)]
    if rows := data.get("cost"):
        full = max(rows.values(), key=lambda case: (case["rounds"] > 0, len(case["rows"])))["steps"]
        parts += ["## The table\n", *(tables.cost(c) for c in tables.cases(rows) if c["steps"] == full)]
        parts += ["## Over the number of steps\n", *picture("cost", "Time, memory and error against N")]
        for what, title in (("over_floor", "Time, × floor"), ("peak_bytes", "Peak, MB"), ("error", "Error (a)")):
            parts += [f"### {title}\n"]
            parts += [
                tables.over_steps(rows, kind, what)
                for kind in tables.TO
                if any(c["kind"] == kind for c in rows.values())
            ]
    if rows := data.get("budget"):
        parts += ["## What memory buys\n", tables.budgets(rows)]
    if rows := data.get("empty"):
        parts += ["## What a call itself costs\n", NOTHING, tables.overhead(rows)]
    if data.get("errors"):
        parts += ["## Walking back\n", "`reversible` against plain backprop of the same float64 state.\n"]
        parts += [tables.reversible(data["errors"])]
    if rows := data.get("analytic"):
        truth = {**rows["truth"], "difference": tables.small(rows["truth"]["difference"])}
        parts += ["## Gaussian mixture: which gradient?\n", MIXTURE.format(**truth)]
        parts += [
            *picture("analytic", "Gradient error against evaluations"),
            "On the logSNR grid, evaluations: discrete / continuous; ⚠ where the library warned:\n",
        ]
        parts += [tables.mixture(rows, "logsnr")]
        parts += ["### The raw adjoint (eq. 6, 9) and the exponential one (eq. 11, 12)\n"]
        parts += [
            "Same solver forward and backward; median over four grids, the worst in brackets.\n",
            tables.paired(rows),
        ]
    if rows := data.get("equal_time"):
        one = next(iter(rows.values()))
        rates = ", ".join(f"{rate:g} for the {task}" for task, rate in RATES.items())
        parts += [
            "## What a user gets for the time\n",
            TIME.format(rates=rates, **{k: one[k] for k in ("steps", "seconds")}),
        ]
        parts += [*picture("equal_time", "Loss against wall time"), tables.equal_time(rows)]
    return parts


def targets(data: Data) -> str:
    words = {True: "met", False: "**not met**", None: "–"}
    return tables.table(["target", "measured", ""], [[t, says, words[met]] for t, says, met in verdicts(data)])
