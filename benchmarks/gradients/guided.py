"""The reversible solver's samples beside DDIM's under guidance, on the embedded model.

Error of the latents at the last time, relative to those of many Runge-Kutta steps in the angle form, which neither
solver is a method for.  The grid is the one on which `belm` can be walked back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import adjointdpm as ad
from adjointdpm.gradients.full import Full
from adjointdpm.numerics import relative_error
from adjointdpm.schedules import make_grid
from adjointdpm.solvers import OBELM
from benchmarks.gradients.plan import Plan
from benchmarks.gradients.problem import Problem, pipeline
from benchmarks.gradients.store import Store

__all__ = ["measure"]

SCALES = (1.0, 2.5, 5.0)
PROMPTS = ["shaded apple on white background", "flat cat on blue background"]
SOLVERS = ("euler", "belm", "ab2")


def measure(store: Store, plan: Plan) -> None:
    if not plan.guided or all(f"{scale:g}" in store for scale in SCALES):
        return
    problem = Problem("x_T", 2)
    positive, negative = (e.detach() for e in ad.differentiable(pipeline()).encode_prompt(PROMPTS))
    noise = torch.randn(len(PROMPTS), 8, 16, 16, generator=torch.Generator().manual_seed(3)).double()

    def sample(scale: float, steps: int, solver: str, form: Any) -> tuple[Tensor, float]:
        grid = make_grid(problem.schedule, steps, "uniform", to_zero=False)
        with torch.no_grad():
            out = ad.sample(
                problem.denoiser, noise, cond=positive, uncond=negative, guidance=scale, grid=grid, solver=solver,
                form=form, gradient=Full(),
            )  # fmt: skip
        return out.x0, OBELM.growth(problem.ode, grid)

    problem.begin()
    for scale in SCALES:
        if (key := f"{scale:g}") in store:
            continue
        truth, _ = sample(scale, plan.guided_reference, "rk4", "angle")
        rows: dict[str, Any] = {}
        for steps in plan.guided:
            rows[str(steps)] = {"growth": 0.0}
            for solver in SOLVERS:
                end, rows[str(steps)]["growth"] = sample(scale, steps, solver, "exponential")
                rows[str(steps)][solver] = relative_error(end, truth)
        store.put(key, {"reference_steps": plan.guided_reference, "rows": rows})
