"""What a user gets for the time: one optimisation with each engine for the same wall time, and the loss it has reached.

Two tasks of the embedded model without guidance: the noise of an image (squared error to the picture of another noise)
and the prompt's embedding (squared error to two pictures with an effect in the prompt).  Adam, one rate for all rows.
The loss is that of the row's own sampler, without a gradient, before and after; target pictures come from that sampler
too, so that each row can reach zero.
"""

from __future__ import annotations

import random
import time
import warnings
from typing import Any

import torch
from torch import Tensor

import adjointdpm as ad
from adjointdpm.errors import AdjointDPMError
from adjointdpm.pipelines.autoencode import decode
from benchmarks.gradients.cost import peak_of
from benchmarks.gradients.methods import METHODS
from benchmarks.gradients.plan import Plan
from benchmarks.gradients.problem import Problem, pipeline
from benchmarks.gradients.store import Store

__all__ = ["ENGINES", "measure"]

ENGINES = {
    "noise": ("exact", "exact_1", "full", "non-reentrant", "reversible", "adjoint", "adjoint_paper", "one_step",
              "torchdiffeq_adams"),
    "embedding": ("exact", "exact_1", "full", "reversible", "adjoint", "truncated", "random_truncation", "one_step",
                  "torchdiffeq_adams"),
}  # fmt: skip
RATES = {"noise": 0.01, "embedding": 0.01}
PLAIN, WITH_EFFECT = "flat dog", "flat dog sepia"
#: The sampler of a row, where it is not DDIM.
SAMPLERS = {"reversible": "full_belm", "adjoint_paper": "full_ab4", "torchdiffeq_adams": "torchdiffeq_plain_adams"}


class Task:
    """Where an optimisation starts and what it is to reach."""

    def __init__(self, name: str, seed: int, steps: int, row: str) -> None:
        self.problem = Problem("x_T" if name == "noise" else "cond", steps)
        self.sampler = METHODS[SAMPLERS.get(row, "full")].forward
        cond, aim = (ad.differentiable(pipeline()).encode_prompt([p])[0].detach() for p in (PLAIN, WITH_EFFECT))
        source = torch.Generator().manual_seed(100 + seed)
        start, other = (torch.randn(1 if name == "noise" else 2, 8, 16, 16, generator=source) for _ in range(2))
        self.problem.x_T, self.problem.cond = (other, cond) if name == "noise" else (start, aim)
        self.target = self.paint()
        self.problem.x_T, self.problem.cond = start.clone(), cond.clone()
        self.leaf = (self.problem.x_T if name == "noise" else self.problem.cond).requires_grad_()

    def paint(self) -> Tensor:
        with torch.no_grad():
            return 0.5 + 0.5 * decode(pipeline(), self.sampler(self.problem))

    def loss(self, x: Tensor) -> Tensor:
        return (0.5 + 0.5 * decode(pipeline(), x) - self.target).square().mean()

    def exact_loss(self) -> float:
        return float((self.paint() - self.target).square().mean())


def measure(store: Store, plan: Plan) -> None:
    for seed in plan.seeds:
        for name, rows in ENGINES.items():
            for row in random.Random(seed).sample(rows, len(rows)):
                if (key := f"{name}/{row}/{seed}") not in store:
                    store.put(key, _optimise(name, row, seed, plan))


def _optimise(name: str, row: str, seed: int, plan: Plan) -> dict[str, Any]:
    task = Task(name, seed, plan.optimised, row)
    if row == "exact_1":
        task.problem.plain_bytes = peak_of("full", task.problem)
    step = torch.optim.Adam([task.leaf], RATES[name])
    before = task.exact_loss()
    path: list[tuple[float, float]] = []
    failed = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began, took = time.perf_counter(), 0.0
        while (spent := time.perf_counter() - began) + took <= plan.seconds or not path:  # no step that ends too late
            task.problem.begin()
            try:
                loss = task.loss(METHODS[row].forward(task.problem))
                loss.backward()  # type: ignore[no-untyped-call]
            except AdjointDPMError as error:
                failed = f"{type(error).__name__}: {error}"[:160]
                break
            step.step()
            took = time.perf_counter() - began - spent
            path.append((spent, float(loss.detach())))
    after = float("nan") if failed else task.exact_loss()
    return {"before": before, "after": after, "updates": len(path), "path": path[:: max(1, len(path) // 40)],
            "seconds": plan.seconds, "steps": plan.optimised, "failed": failed}  # fmt: skip
