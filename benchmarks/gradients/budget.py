"""What memory buys: `exact` from one graph alive to plain backprop's memory, beside plain backprop."""

from __future__ import annotations

from typing import Any

from benchmarks.gradients.cost import peak_of
from benchmarks.gradients.methods import SHARES, gradient
from benchmarks.gradients.plan import Plan
from benchmarks.gradients.problem import Problem
from benchmarks.gradients.store import Store
from benchmarks.gradients.turns import take_turns

__all__ = ["measure"]


def measure(store: Store, plan: Plan) -> None:
    for kind, steps in plan.budgets:
        if (key := f"{kind}/{steps}") not in store:
            store.put(key, _case(kind, steps, plan.rounds))


def _case(kind: str, steps: int, rounds: int) -> dict[str, Any]:
    problem = Problem(kind, steps)
    problem.plain_bytes = peak_of("full", problem)
    rows = ["exact", *(f"exact_{share:g}" for share in SHARES), "full"]
    peaks = {row: peak_of(row, problem) for row in rows}
    times = take_turns(lambda row: gradient(row, problem), dict.fromkeys(rows, "floor_euler"), rounds)
    found = {row: {**times[row], "peak_bytes": peaks[row]} for row in rows}
    return {"kind": kind, "steps": steps, "rounds": rounds, "rows": found}
