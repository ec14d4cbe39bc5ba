"""The table: gradient error, peak memory, time as a multiple of the floor and evaluations, for every row.

Errors and memory come from one run under the meter, which is also the warm-up of the timed turns.  Error (a) is against
plain backprop through the same forward in float32, (b) against it in float64.
"""

from __future__ import annotations

import copy
import time
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from adjointdpm.numerics import LiveTensorMeter, relative_error
from benchmarks.gradients.methods import FLOORS, METHODS, gradient
from benchmarks.gradients.plan import ADAPTIVE, ESSENTIAL, Plan
from benchmarks.gradients.problem import Problem
from benchmarks.gradients.store import Store
from benchmarks.gradients.turns import take_turns

__all__ = ["look_at", "measure", "peak_of"]


def measure(store: Store, plan: Plan) -> None:
    for kind, steps, rows in plan.timed:
        if (key := f"{kind}/{steps}") not in store:
            store.put(key, _case(kind, steps, _fitting(rows, kind), plan.rounds))
    for kind, steps in plan.untimed:
        if (key := f"{kind}/{steps}") not in store:
            store.put(key, _case(kind, steps, _fitting(ESSENTIAL, kind), 0))


def _fitting(rows: tuple[str, ...], kind: str) -> list[str]:
    return [row for row in rows if kind in METHODS[row].kinds]


def _case(kind: str, steps: int, rows: list[str], rounds: int) -> dict[str, Any]:
    began = time.perf_counter()
    problem = Problem(kind, steps)
    problem.plain_bytes = peak_of("full", problem)
    floors = sorted({f"floor_{METHODS[row].floor}" for row in rows})
    seen = References(problem)
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for row in (*floors, *rows):
        try:
            found[row] = look_at(row, problem, seen)
        except (RuntimeError, ValueError, ArithmeticError, AssertionError) as error:  # of a rival, or a refusal
            failed[row] = f"{type(error).__name__}: {error}"[:200]
    seen.clear()
    rows = [row for row in rows if row in found]
    if rounds:
        once = [row for row in rows if row in ADAPTIVE and kind != "x_T"]
        for timed, turns in ((rows, rounds), (once, 1)):
            floor_of = {row: f"floor_{METHODS[row].floor}" for row in timed if turns == 1 or row not in once}
            times = take_turns(lambda row: gradient(row, problem), floor_of, turns, 1 if steps <= 20 else 2, seed=steps)
            for row, figures in times.items():
                found[row] |= {**figures, "turns": turns} if "over_floor" in figures or turns > 1 else {}
    return {
        "kind": kind,
        "steps": steps,
        "rounds": rounds,
        "one_call_bytes": one_call(problem),
        "state_bytes": problem.x_T.nbytes,
        "took": time.perf_counter() - began,
        "rows": found,
        "failed": failed,
    }


class References:
    """Plain backprop through the forward of a row, in float32 and float64, computed when it is first asked for."""

    def __init__(self, problem: Problem) -> None:
        wide = Problem(problem.kind, problem.steps, torch.float64, problem.name, problem.spacing)
        self._problems = {"same": problem, "float64": wide}
        self._known: dict[tuple[str, str], Tensor] = {}

    def of(self, reference: str, which: str) -> Tensor:
        if (reference, which) not in self._known:
            self._known[reference, which] = _vector(gradient(reference, self._problems[which])[0])
        return self._known[reference, which]

    def clear(self) -> None:
        self._known.clear()


def look_at(row: str, problem: Problem, seen: References) -> dict[str, Any]:
    """Errors, peak, calls of the network and warnings of one gradient."""
    reference = METHODS[row].reference if row in METHODS else _reference_of_floor(row)
    want = seen.of(reference, "same")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradient(row, problem)  # what is measured once (a budget's profile) is not in the peak
        with LiveTensorMeter() as meter:
            found, forward, backward = gradient(row, problem)
    got = _vector(found)
    return {
        "error": relative_error(got, want),
        "bit_equal": torch.equal(got, want),
        "error_float64": relative_error(got, seen.of(reference, "float64")),
        "peak_bytes": meter.peak_bytes,
        "nfe": [forward, backward],
        "warnings": sorted({f"{w.category.__name__}: {w.message}"[:300] for w in caught}),
    }


def _reference_of_floor(row: str) -> str:
    return {"euler": "full", "heun": "full_heun", "rk4": "full_rk4"}[FLOORS[row]]


def _vector(found: list[Tensor]) -> Tensor:
    """A copy: over all tensors at once, since a bias whose true gradient is zero has an error of mere rounding."""
    return parameters_to_vector(found).detach().clone()


def peak_of(row: str, problem: Problem) -> int:
    gradient(row, problem)
    with LiveTensorMeter() as meter:
        gradient(row, problem)
    return meter.peak_bytes


def one_call(problem: Problem) -> int:
    """Peak of a call and its VJP, done twice, so that the sum of two gradients is in it as in every solve."""
    problem.begin()
    t = problem.grid.t[:1].to(problem.dtype)
    with LiveTensorMeter() as meter:
        x = copy.copy(problem.x_T.detach()).requires_grad_()
        for _ in range(2):
            problem.net(x, t, problem.cond).backward(torch.ones_like(x))
    return meter.peak_bytes
