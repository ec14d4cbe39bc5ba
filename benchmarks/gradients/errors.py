"""Exactness of `exact` for every solver in float32 and float64, to everything at once; and of `reversible`."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.nn.utils import parameters_to_vector

import adjointdpm as ad
from adjointdpm.errors import InvalidInput
from adjointdpm.gradients.base import Engine
from adjointdpm.gradients.exact import Exact
from adjointdpm.gradients.full import Full
from adjointdpm.gradients.reversible import Reversible
from adjointdpm.numerics import relative_error
from adjointdpm.ode import make_ode
from adjointdpm.solvers import OBELM, SOLVERS, Dopri5, Solver
from benchmarks.gradients.plan import Plan
from benchmarks.gradients.problem import Problem
from benchmarks.gradients.store import Store

__all__ = ["measure"]

#: All that are not another name; the adaptive one with few steps.
CHECKED: dict[str, Solver] = {n: s for n, s in SOLVERS.items() if n not in ("ddim", "ab1")}
CHECKED["dopri5"] = Dopri5(rtol=1e-2, atol=1e-2)
WALKED_BACK = (("exponential", "uniform"), ("angle", "uniform"), ("angle", "logsnr"), ("exponential", "logsnr"))


def measure(store: Store, plan: Plan) -> None:
    for steps, dtypes in plan.errors:
        for dtype in dtypes:
            problem = Problem("all", steps, getattr(torch, dtype))
            for solver in CHECKED:
                if (key := f"{solver}/{steps}/{dtype}") not in store:
                    store.put(key, _exact(problem, solver))
    for form, spacing in WALKED_BACK:
        for steps in plan.walked:
            if (key := f"reversible/{form}/{spacing}/{steps}") not in store:
                store.put(key, _reversible(form, spacing, steps))


def _vectors(problem: Problem, engine: Engine, solver: Any, **given: Any) -> torch.Tensor:
    problem.begin()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = ad.sample(
            problem.denoiser, problem.x_T, cond=problem.cond, grid=problem.grid, solver=solver, gradient=engine, **given
        )
        problem.loss(out.x0).backward()  # type: ignore[no-untyped-call]
    found = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in problem.leaves]
    return parameters_to_vector(found).detach().clone()


def _exact(problem: Problem, solver: str) -> dict[str, Any]:
    want = _vectors(problem, Full(), CHECKED[solver])
    got = _vectors(problem, Exact(), CHECKED[solver])
    return {"error": relative_error(got, want), "bit_equal": torch.equal(got, want)}


def _reversible(form: Any, spacing: str, steps: int) -> dict[str, Any]:
    """Error against plain backprop of the same float64 state around the float32 network, and the grid's growth."""
    problem = Problem("x_T", steps, spacing=spacing)
    ode = problem.ode if form == "exponential" else make_ode(form, problem.ode.model)  # type: ignore[arg-type]
    growth = OBELM.growth(ode, problem.grid)
    row: dict[str, Any] = {"form": form, "spacing": spacing, "steps": steps, "growth": growth, "error": None}
    try:
        got = _vectors(problem, Reversible(), "belm", form=form)
    except InvalidInput as refused:
        return {**row, "refused": str(refused)[:160]}
    want = _vectors(problem, Full(), "belm", form=form, state_dtype=torch.float64)
    return {**row, "error": relative_error(got, want)}
