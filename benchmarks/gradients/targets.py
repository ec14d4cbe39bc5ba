"""Each target with what was measured: met, or not.  Nothing here asserts; it reads the figures."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gradients.analytic import SPACINGS
from benchmarks.gradients.equal_time import ENGINES
from benchmarks.gradients.methods import SHARES, label_of
from benchmarks.gradients.selective import half_memory
from benchmarks.gradients.tables import TO, cases, small

__all__ = ["verdicts"]

Verdict = tuple[str, str, bool | None]  # target, measured, met
Data = dict[str, dict[str, Any]]
EXACT = ("exact", "exact_ab4", "exact_heun", "exact_rk4")
LIMITS = {"ab4": {10: 0.30, 20: 0.04, 50: 0.003}, "euler": {10: 0.55, 20: 0.25, 50: 0.10}}


def verdicts(data: Data) -> list[Verdict]:
    """All that can be answered from what was measured."""
    found: list[Verdict] = []
    for section, answers in ANSWERS:
        rows = data.get(section, {})
        if rows:
            found += answers(rows)
    return found


def _exactness(rows: dict[str, Any]) -> Iterator[Verdict]:
    for dtype, limit in (("float32", 1e-6), ("float64", 1e-12)):
        checked = {k: r for k, r in rows.items() if k.endswith(dtype) and not k.startswith("reversible/")}
        if not checked:
            continue
        worst = max(checked, key=lambda k: checked[k]["error"])
        equal, error = sum(r["bit_equal"] for r in checked.values()), checked[worst]["error"]
        says = f"bit equal in {equal} of {len(checked)}; largest error {small(error)}" + (
            f" ({worst})" if error else ""
        )
        yield f"exact: bit equal or error (a) ≤ {limit:.0e}, {dtype}, every solver", says, error <= limit
    walked = [r for k, r in rows.items() if k.startswith("reversible/") and "refused" not in r]
    if walked:
        worst_row = max(walked, key=lambda r: r["error"])
        says = (
            f"at most {small(worst_row['error'])} in {len(walked)} solves ({worst_row['form']}, "
            f"{worst_row['spacing']}, N = {worst_row['steps']}, growth {small(worst_row['growth'])})"
        )
        yield "reversible: error ≤ 1e-6 up to 80 steps while growth ≤ 1e5", says, worst_row["error"] <= 1e-6


def _time(rows: dict[str, Any]) -> Iterator[Verdict]:
    for kind, to in TO.items():
        for engine in EXACT:
            timed = {
                case["steps"]: case["rows"][engine]["over_floor"][1]
                for case in cases(rows)
                if case["kind"] == kind and "over_floor" in case["rows"].get(engine, {})
            }
            if timed:
                says = ", ".join(f"{value:.2f} (N = {n})" for n, value in timed.items())
                yield f"{label_of(engine)}, to {to}: time ≤ 1.05 × floor", says, max(timed.values()) <= 1.05
    for kind, factor in (("x_T", 2.7), ("weights", 3.3)):
        found = {}
        for case in cases(rows):
            both = [case["rows"].get(row, {}).get("over_floor") for row in ("torchdiffeq_adams", "exact_ab4")]
            if case["kind"] == kind and all(both):
                found[case["steps"]] = both[0][1] / both[1][1]
        if found:
            says = ", ".join(f"{value:.1f} × (N = {n})" for n, value in found.items())
            yield (
                f"≥ {factor} × faster than the paper's torchdiffeq recipe, to {TO[kind]}",
                says,
                min(found.values()) >= factor,
            )


def _memory(rows: dict[str, Any]) -> Iterator[Verdict]:
    over, without = {}, {}
    for case in cases(rows):
        for engine in EXACT:
            if engine in case["rows"]:
                row = case["rows"][engine]
                states = row["nfe"][0] * case["state_bytes"]
                over[f"{engine}, {case['kind']}, N = {case['steps']}"] = row["peak_bytes"] / (
                    case["one_call_bytes"] + states
                )
    worst = max(over, key=lambda k: over[k])
    says = f"at most {over[worst]:.3f} × ({worst})"
    yield "peak ≤ 1.05 × (one forward + VJP, and the stored states)", says, over[worst] <= 1.05
    for engine, less_states in (("exact", True), ("reversible", False)):
        for kind in TO:
            without = {
                c["steps"]: c["rows"][engine]["peak_bytes"]
                - (c["rows"][engine]["nfe"][0] * c["state_bytes"] if less_states else 0)
                for c in cases(rows)
                if c["kind"] == kind and engine in c["rows"]
            }
            if len(without) > 1:
                low, high = min(without), max(without)
                grown = without[high] / without[low]
                name = "exact: peak less states flat in N" if less_states else "reversible: memory independent of N"
                yield f"{name}, to {TO[kind]}", f"{grown:.3f} × from N = {low} to {high}", grown <= 1.05


def _budget(rows: dict[str, Any]) -> Iterator[Verdict]:
    for case in rows.values():
        of = {name: row["over_floor"][1] for name, row in case["rows"].items() if "over_floor" in row}
        where = f"to {TO[case['kind']]}, N = {case['steps']}"
        ladder = [of["exact"], *(of[f"exact_{share:g}"] for share in SHARES)]
        says = " → ".join(f"{value:.2f}" for value in ladder)
        rises = max(b / a for a, b in itertools.pairwise(ladder))
        yield f"time never rises with the budget (± 5 %), {where}", f"{says} × floor", rises <= 1.05
        best = min(of["full"], of["exact"])
        says = f"{of['exact_1']:.2f} against {of['full']:.2f} (plain) and {of['exact']:.2f} (one graph)"
        yield (
            f"plain backprop's memory: no slower than the faster of both (± 5 %), {where}",
            says,
            of["exact_1"] <= 1.05 * best,
        )
        gain = 1 - of["exact_0.5"] / of["exact"]
        yield (
            f"half of plain backprop's memory: ≥ 10 % faster than one graph, {where}",
            f"{gain:.0%} faster",
            gain >= 0.10,
        )


def _selective(rows: dict[str, Any]) -> Iterator[Verdict]:
    for kind, case in rows.items():
        whole, selective = half_memory(case["rows"])
        share = case["rows"]["selective"]["graph_bytes"] / case["rows"]["whole"]["graph_bytes"]
        cost = case["rows"]["selective"]["over_floor"][1]
        yield (
            f"would selective keeping inside a call save more with half of the memory, to {TO[kind]}?",
            f"a call so kept holds {share:.0%} of its graph and takes {cost:.2f} × running it twice (whole graph: "
            f"{case['rows']['whole']['over_floor'][1]:.2f}); all calls: {selective:.2f} × against {whole:.2f} × with "
            "whole graphs",
            None,
        )


def _empty(rows: dict[str, Any]) -> Iterator[Verdict]:
    per_call = {case["kind"]: case["rows"]["exact"]["us_per_call"][1] for case in rows.values()}
    floor = {case["kind"]: case["rows"]["floor_euler"]["us_per_call"][1] for case in rows.values()}
    extra = max(per_call[k] - floor[k] for k in per_call)
    says = ", ".join(f"{value:.0f} (to {TO[k]}, floor {floor[k]:.0f})" for k, value in per_call.items())
    yield "exact ≤ 150 µs a call above the floor, network that does nothing", says, extra <= 150
    yield "the same with all that the solver itself does", says, max(per_call.values()) <= 150


def _mixture(rows: dict[str, Any]) -> Iterator[Verdict]:
    steps = sorted({int(k.split("/")[1]) for k in rows if k.startswith("logsnr/")})
    for solver, limits in LIMITS.items():
        for n in [n for n in steps if n in limits]:
            by = {s: rows[f"{s}/{n}/{solver}"]["engines"]["adjoint"]["discrete"] for s in SPACINGS}
            says = ", ".join(f"{s} {value:.2%}" for s, value in by.items())
            yield f"adjoint, {solver} forward, mixture, N = {n}: ≤ {limits[n]:.1%}", says, max(by.values()) <= limits[n]
    ratios = {
        f"{s}, N = {n}": rows[f"{s}/{n}/belm"]["sample_error"] / rows[f"{s}/{n}/euler"]["sample_error"]
        for s in SPACINGS for n in steps if n >= 20
    }  # fmt: skip
    if ratios:
        worst = max(ratios, key=lambda k: ratios[k])
        says = f"at most {ratios[worst]:.2f} × ({worst})"
        yield "belm: sample error ≤ 0.5 × DDIM's at N ≥ 20, mixture", says, ratios[worst] <= 0.5
    few = [
        (rows[f"{s}/{n}/{solver}"]["engines"][engine], engine)
        for s in SPACINGS for n in steps if n < 40 for solver in ("euler", "ab4")
        for engine in ("adjoint_ab2", "adjoint_ab4", "adjoint_paper")
    ]  # fmt: skip
    warned = sum(bool(found["warned"]) for found, _ in few)
    yield "ab2 and ab4 over a reversed grid at N < 40 warn", f"{warned} of {len(few)} solves warned", warned == len(few)
    everywhere = [
        f for k, r in rows.items() if "engines" in r for e, f in r["engines"].items() if e.startswith("adjoint")
    ]
    silent = [f for f in everywhere if "nfe" in f and f["discrete"] > 1 and not f["warned"]]
    lost = sum("nfe" in f and f["discrete"] > 1 for f in everywhere)
    yield "an adjoint that is off by more than 100 % warns", f"{lost - len(silent)} of {lost} warned", not silent


def _raw_or_exponential(rows: dict[str, Any]) -> Iterator[Verdict]:
    """The paper's claim for samples, asked of gradients: eq. 12 against eq. 9 at the same solver and evaluations."""
    places = sorted({key.rpartition("/")[0] for key in rows if key.startswith("paired/")})
    for which in ("discrete", "continuous"):
        won: dict[str, list[bool]] = {}
        for place in places:
            both = [rows[f"{place}/{form}"]["engines"]["adjoint"].get(which) for form in ("exponential", "raw")]
            if None not in both:
                won.setdefault(place.rpartition("/")[2], []).append(both[0] < both[1])
        says = ", ".join(f"{solver} {sum(w)} of {len(w)}" for solver, w in won.items())
        every = all(all(w) for w in won.values())
        yield f"the exponential adjoint is closer than the raw one to the {which} gradient, mixture", says, every


def _guided(rows: dict[str, Any]) -> Iterator[Verdict]:
    for scale, case in rows.items():
        said = ", ".join(f"{r['belm'] / r['euler']:.2f} × (N = {n})" for n, r in case["rows"].items())
        yield f"belm's sample error over DDIM's, embedded model, guidance {scale} (stated)", said, None


def _compiled(rows: dict[str, Any]) -> Iterator[Verdict]:
    for case in rows.values():
        if not case["works"]:
            yield "torch.compile works on this CPU", case["why"], False
            continue
        of = {name: row["over_floor"][1] for name, row in case["rows"].items() if "over_floor" in row}
        says = (
            f"exact {of['exact_compiled']:.2f} × the eager floor, {of['exact']:.2f} eager; error {small(case['error'])}"
        )
        yield "torch.compile works on this CPU", says, True


def _equal_time(rows: dict[str, Any]) -> Iterator[Verdict]:
    for task, engines in ENGINES.items():
        left = {}
        for engine in engines:
            runs = [run for key, run in rows.items() if key.startswith(f"{task}/{engine}/")]
            if runs:
                left[engine] = statistics.median(run["after"] / run["before"] for run in runs)
        best = min(left, key=lambda e: left[e] if left[e] == left[e] else float("inf"))
        says = f"best {label_of(best)} with {left[best]:.4f} left; `exact` {left['exact']:.4f}"
        exact = best in ("exact", "exact_1", "full", "non-reentrant", "reversible")
        yield f"exact gradients win at equal time, {task}", says, exact


ANSWERS: tuple[tuple[str, Callable[[dict[str, Any]], Iterator[Verdict]]], ...] = (
    ("errors", _exactness), ("cost", _time), ("empty", _empty), ("cost", _memory), ("budget", _budget),
    ("selective", _selective), ("compile", _compiled), ("analytic", _mixture), ("analytic", _raw_or_exponential),
    ("guided", _guided), ("equal_time", _equal_time),
)  # fmt: skip
