"""Gradient error against evaluations on the Gaussian mixture: every solver with every engine, on several grids.

For every solve two errors of ∂metric/∂x_T, each relative per sample, medians over samples: against the exact gradient
of the same forward (what the sampler's image really does), and against the gradient of the continuous flow, converged
with Runge-Kutta (what the ODE would do).  The raw adjoint (eq. 6, 9) is compared with the exponential one (eq. 11, 12)
at the same solver, engine and evaluations.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import adjointdpm as ad
from adjointdpm.errors import AdjointDPMError
from adjointdpm.gradients.adjoint import Adjoint
from adjointdpm.gradients.base import Engine
from adjointdpm.gradients.exact import Exact
from adjointdpm.gradients.full import Full
from adjointdpm.gradients.reversible import Reversible
from adjointdpm.gradients.truncated import OneStep
from adjointdpm.models import Denoiser
from adjointdpm.schedules import Grid, VPLinear, make_grid
from adjointdpm.solvers import RK4, AdamsBashforth, Dopri5, Solver, make_solver
from benchmarks.gradients.mixture import DIMENSIONS, EVALUATIONS, Mixture, metric
from benchmarks.gradients.plan import Plan
from benchmarks.gradients.store import Store

__all__ = ["SPACINGS", "Flow", "measure"]

SPACINGS = ("logsnr", "uniform", "quadratic", "karras")
FORWARDS: dict[str, Solver] = {
    **{name: make_solver(name) for name in ("euler", "heun", "rk4", "ab2", "ab3", "ab4", "dpmpp2m", "belm")},
    "ab4_rk4start": AdamsBashforth(4, start="rk4"),
}
ENGINES: dict[str, Engine] = {
    "exact": Exact(),
    "reversible": Reversible(),
    "one_step": OneStep(),
    "adjoint": Adjoint(),
    "adjoint_paper": Adjoint(preset="paper"),
    **{f"adjoint_{s}": Adjoint(backward_solver=s) for s in ("euler", "heun", "ab2", "ab4")},  # type: ignore[arg-type]
}
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)
#: Raw against exponential: the forward and the backward by the same solver.
PAIRED = {"euler": Adjoint(backward_solver="euler"), "heun": Adjoint(backward_solver="heun"), "rk4": Adjoint(),
          "ab2": Adjoint(backward_solver="ab2"), "ab4": Adjoint(backward_solver="ab4")}  # fmt: skip


class Flow:
    """The mixture, its noises, and the converged end and gradient of its flow from t = 1 to 0.001."""

    def __init__(self, samples: int, reference: int) -> None:
        self.schedule = VPLinear()
        self.denoiser = Denoiser(Mixture(self.schedule), self.schedule, "eps")
        self.reference = reference
        self.x_T = torch.randn(samples, DIMENSIONS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def grid(self, steps: int, spacing: str, to_zero: bool = False) -> Grid:
        return make_grid(self.schedule, steps, spacing, to_zero=to_zero)  # type: ignore[arg-type]

    def solve(
        self, solver: Any, engine: Engine, grid: Grid, form: Any = "exponential"
    ) -> tuple[Tensor, Tensor, int, str]:
        """(end, gradient, evaluations of forward and backward, warnings)."""
        x = self.x_T.clone().requires_grad_()
        EVALUATIONS[0] = 0
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            out = ad.sample(self.denoiser, x, solver=solver, gradient=engine, grid=grid, form=form)
            (found,) = torch.autograd.grad(metric(out.x0), x)
        return out.x0.detach(), found, EVALUATIONS[0], "; ".join(sorted({w.category.__name__ for w in caught}))

    @cached_property
    def truth(self) -> tuple[Tensor, Tensor]:
        end, gradient, _, _ = self.solve(RK4, Full(), self.grid(self.reference, "logsnr"))
        return end, gradient

    def coarser_truth(self) -> float:
        """Largest relative difference of the converged gradient from one of half its steps."""
        _, gradient, _, _ = self.solve(RK4, Full(), self.grid(self.reference // 2, "logsnr"))
        return max(_relative(gradient, self.truth[1]))


def _relative(got: Tensor, want: Tensor) -> list[float]:
    return ((got - want).norm(dim=1) / want.norm(dim=1)).tolist()


def median(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median())


def measure(store: Store, plan: Plan) -> None:
    flow = Flow(plan.samples, plan.reference)
    if "truth" not in store:
        store.put("truth", {"steps": plan.reference, "samples": plan.samples, "difference": flow.coarser_truth()})
    for spacing in SPACINGS:
        for steps in plan.mixture:
            grid = flow.grid(steps, spacing)
            for name, solver in FORWARDS.items():
                if (key := f"{spacing}/{steps}/{name}") not in store:
                    store.put(key, _forward(flow, solver, grid, ENGINES))
            if (key := f"{spacing}/{steps}/belm_angle") not in store:
                engines = {name: ENGINES[name] for name in ("exact", "reversible", "adjoint")}
                store.put(key, _forward(flow, make_solver("belm"), grid, engines, "angle"))
            for name, engine in PAIRED.items():
                for form in ("raw", "exponential"):
                    if (key := f"paired/{spacing}/{steps}/{name}/{form}") not in store:
                        both = {"adjoint": engine, "exact": Exact()}
                        store.put(key, _forward(flow, make_solver(name), grid, both, form))
    for tolerance in TOLERANCES:
        if (key := f"dopri5/{tolerance:g}") not in store:
            solver = Dopri5(tolerance, tolerance, max_nfe=20000)
            store.put(key, _forward(flow, solver, flow.grid(2, "logsnr"), {"exact": Exact(), "adjoint": Adjoint()}))


def _forward(
    flow: Flow, solver: Solver, grid: Grid, engines: dict[str, Engine], form: str = "exponential"
) -> dict[str, Any]:
    """Every engine through one forward: its two errors, evaluations and warnings, or why it was refused."""
    end, discrete, _, _ = flow.solve(solver, Full(), grid, form)
    row: dict[str, Any] = {"sample_error": median(_relative(end, flow.truth[0])), "engines": {}}
    for name, engine in engines.items():
        try:
            _, found, nfe, warned = flow.solve(solver, engine, grid, form)
        except AdjointDPMError as refused:
            row["engines"][name] = {"refused": str(refused)[:160]}
            continue
        row["engines"][name] = {
            "discrete": median(_relative(found, discrete)),
            "continuous": median(_relative(found, flow.truth[1])),
            "nfe": nfe,
            "warned": warned,
        }
    return row
