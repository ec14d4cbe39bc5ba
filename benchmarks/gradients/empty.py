"""Every row once more with a network that does nothing: what is left is what the method itself costs for each call."""

from __future__ import annotations

import time
import warnings
from typing import Any

from benchmarks.gradients.methods import METHODS, gradient
from benchmarks.gradients.plan import ADAPTIVE, CORE, SLOW, Plan
from benchmarks.gradients.problem import Problem
from benchmarks.gradients.store import Store
from benchmarks.gradients.turns import spread

__all__ = ["measure"]


def measure(store: Store, plan: Plan) -> None:
    steps, rounds = plan.empty
    for kind in plan.kinds:
        if (key := f"{kind}/{steps}") not in store:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                store.put(key, _case(kind, steps, rounds))


def _case(kind: str, steps: int, rounds: int) -> dict[str, Any]:
    """Microseconds of forward and backward for each network call of the forward; rows take turns."""
    problem = Problem(kind, steps, name="nothing")
    problem.plain_bytes = 1 << 30  # room for every graph
    floors = ("floor_euler", "floor_heun", "floor_rk4")
    rows = [*floors, *(row for row in CORE + SLOW + ADAPTIVE if row != "exact_0.5" and kind in METHODS[row].kinds)]
    calls = {row: gradient(row, problem)[1:] for row in rows}
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(rounds):
        for row in rows:
            began = time.perf_counter()
            gradient(row, problem)
            seconds[row].append(time.perf_counter() - began)
    found = {
        row: {
            "us_per_call": [1e6 * s / calls[row][0] for s in spread(seconds[row])],
            "us_per_evaluation": 1e6 * spread(seconds[row])[1] / sum(calls[row]),
            "nfe": list(calls[row]),
        }
        for row in rows
    }
    return {"kind": kind, "steps": steps, "rounds": rounds, "rows": found}
