"""The ODE road: noise to data and data to noise, with a gradient to everything that went in.

This is the only place that composes schedule, denoiser, ODE form, solver and gradient engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NonFinite, UnreachedGradient
from adjointdpm.gradients import AdjointCallback, Engine, SolveSpec, SolveStats, make_engine
from adjointdpm.models import Denoiser, GuidedDenoiser, refuse_noisy_modules
from adjointdpm.models.convert import coefficients
from adjointdpm.models.tree import tensors
from adjointdpm.ode import Form, make_ode
from adjointdpm.schedules import Grid, Spacing, make_grid
from adjointdpm.solvers import Dopri5, Solver, SolverState, make_solver

__all__ = ["Sampled", "sample", "to_noise"]

Callback = Callable[[int, float, Tensor], None]


@dataclass(frozen=True, eq=False)
class Sampled:
    """The end of a solve.

    Attributes:
        x0: (B, ...) the sample, with a graph to x_T, conditioning, guidance and weights that require grad.
        stats: what it cost.
        grid: the nodes that were visited (of an adaptive solver the accepted ones, which can be passed as `grid=`).
    """

    x0: Tensor
    stats: SolveStats
    grid: Grid


def sample(
    denoiser: Denoiser,
    x_T: Tensor,
    *,
    cond: Any = None,
    uncond: Any = None,
    guidance: Tensor | float = 1.0,
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float = 0.0,
    steps: int = 20,
    spacing: Spacing = "logsnr",
    solver: str | Solver = "euler",
    form: Form = "exponential",
    gradient: str | Engine = "exact",
    t_start: Tensor | float | None = None,
    t_end: Tensor | float | None = None,
    to_zero: bool = True,
    grid: Grid | None = None,
    state_dtype: torch.dtype | None = None,
    callback: Callback | None = None,
    on_adjoint: AdjointCallback | None = None,
) -> Sampled:
    """Solve the probability-flow ODE (paper eq. 6, 11) from noise to data.

    Args:
        denoiser: the wrapped network.
        x_T: (B, ...) floating noise at the first time: standard normal for variance-preserving schedules and flow,
            t_start times that for EDM.
        cond, uncond: conditioning for the network: a tensor or a tree of dicts, lists and tuples of tensors, each
            with a leading batch dimension of B or 1.
        guidance: s of s eps(c) + (1 - s) eps(empty): a number or a tensor () or (B,); needs `uncond` unless it is 1.
        guidance_interval: (low, high) in sigma / alpha outside of which the conditional branch counts alone.
        guidance_rescale: share in [0, 1] of the output rescaled to the conditional one's standard deviation.
        steps, spacing, t_start, t_end, to_zero: the grid, see `schedules.make_grid`; a time may require grad.
        solver: "euler" (= DDIM in the exponential form), "heun", "rk4", "ab1" ... "ab4", "dpmpp2m", "belm"
            (reversible), "dopri5" (adaptive: of the grid it takes the first and the last time), "ancestral" and
            "euler_maruyama" (stochastic), or a `Solver`.
        form: "exponential" (eq. 11), "raw" (eq. 6) or "angle"; a solver for alpha = 0 at the start needs the last two.
        gradient: "exact" (constant memory), "full" (plain backprop), "reversible" (with "belm"), "adjoint" (the
            paper's), the biased "truncated", "random_truncation", "one_step", or an `Engine`.
        grid: a ready grid instead of steps, spacing, t_start, t_end, to_zero.
        state_dtype: dtype of the state; x_T's by default, float32 if that is a half precision, float64 for
            "reversible".
        callback: called as callback(node, t, x) after each step with x detached.
        on_adjoint: called in backward as on_adjoint(node, a), a = dL/dy (B, ...) at the nodes that are still
            differentiated, last first: how the gradient travels, and where two engines part.

    Returns:
        `Sampled`; its `.x0` has the state's dtype.

    Raises:
        InvalidInput: bad values or a combination that does not fit, before the network is called.
        UnreachedGradient: something requires grad that the computation does not contain.
        NonFinite: the state became NaN or infinite; names the step.
        NotConverged: an adaptive solver met its maximum of evaluations; names the time reached.
    """
    if grid is None:
        grid = make_grid(denoiser.schedule, steps, spacing, t_start, t_end, to_zero)
    guide = guidance, guidance_interval, guidance_rescale
    return _solve(
        denoiser, x_T, "x_T", grid, cond, uncond, guide, solver, form, gradient, state_dtype, callback, on_adjoint
    )


def to_noise(
    denoiser: Denoiser,
    x_0: Tensor,
    *,
    cond: Any = None,
    uncond: Any = None,
    guidance: Tensor | float = 1.0,
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float = 0.0,
    steps: int = 50,
    spacing: Spacing = "logsnr",
    solver: str | Solver = "euler",
    form: Form = "exponential",
    gradient: str | Engine = "exact",
    t_start: Tensor | float | None = None,
    t_end: Tensor | float | None = None,
    grid: Grid | None = None,
    state_dtype: torch.dtype | None = None,
    callback: Callback | None = None,
    on_adjoint: AdjointCallback | None = None,
) -> Sampled:
    """The same ODE from data to noise: `x_0` (B, ...) is the sample at t_end > 0, the result that at t_start.

    All else is as in `sample`, gradients too.  The round trip with `sample(..., to_zero=False)` over the same times is
    exact in the limit of small steps only; the higher the order of the solver, the closer.

    Returns:
        `Sampled`, whose `.x0` is here x_T.
    """
    if grid is None:
        grid = make_grid(denoiser.schedule, steps, spacing, t_start, t_end, to_zero=False).reversed()
    guide = guidance, guidance_interval, guidance_rescale
    return _solve(
        denoiser, x_0, "x_0", grid, cond, uncond, guide, solver, form, gradient, state_dtype, callback, on_adjoint
    )


def _solve(
    denoiser: Denoiser,
    x: Tensor,
    name: str,
    grid: Grid,
    cond: Any,
    uncond: Any,
    guide: tuple[Tensor | float, tuple[float, float] | None, float],
    solver: str | Solver,
    form: Form,
    gradient: str | Engine,
    state_dtype: torch.dtype | None,
    callback: Callback | None,
    on_adjoint: AdjointCallback | None,
) -> Sampled:
    engine = make_engine(gradient)
    x = _check_sample(x, name, state_dtype or engine.state_dtype)
    refuse_noisy_modules(denoiser.network)
    guidance, interval, rescale = guide
    model = GuidedDenoiser(denoiser, cond, uncond, guidance, x, interval, rescale)
    ode = make_ode(form, model)
    finite: list[Tensor] = []

    def on_step(n: int, t: Tensor, state: SolverState) -> None:
        finite.append(torch.isfinite(state.y.detach()).all())
        if on_adjoint is not None and state.y.requires_grad:
            state.y.register_hook(lambda a: on_adjoint(n, a))  # type: ignore[no-untyped-call]
        if callback is not None:
            callback(n, t.item(), ode.from_state(state.y, t).detach())

    spec = SolveSpec(model, ode, make_solver(solver), grid, x, on_step, on_adjoint)
    engine.check(spec)
    _check_guided(model, grid)
    if denoiser.prediction == "eps":
        coefficients("eps", 1.0, 0.0, grid.alpha.min(), grid.sigma.max())  # refuses alpha = 0
    started = time.perf_counter()
    if isinstance(spec.solver, Dopri5):  # its accepted grid, then a fixed-step solve like any other
        grid = spec.solver.accept(ode, x.detach(), grid)
        spec = replace(spec, grid=grid)
    out = engine.solve(spec)
    spec.stats.seconds = time.perf_counter() - started
    counter = model.counter
    spec.stats.nfe, spec.stats.network_calls = counter.nfe, counter.network_calls
    spec.stats.sample_evaluations = counter.sample_evaluations
    if grid.to_zero:
        finite.append(torch.isfinite(out.detach()).all())
        if callback is not None:
            callback(grid.steps, grid.t[-1].item(), out.detach())
    bad = torch.stack(finite).logical_not().nonzero()  # one synchronisation for all steps
    if len(bad):
        raise NonFinite(
            f"the sample is not finite after step {int(bad[0]) + 1} of {grid.steps} "
            f"(t={grid.t[int(bad[0]) + 1].item():g}): check the network's dtype and the prediction type"
        )
    return Sampled(out, spec.stats, grid)


def _check_guided(model: GuidedDenoiser, grid: Grid) -> None:
    """Raise where guidance or its unconditional branch requires grad and no step of the grid is guided."""
    if not model.guided or model.interval is None:
        return
    learnt = [leaf for leaf in (*tensors(model.uncond), *tensors(model.guidance)) if leaf.requires_grad]
    if learnt and not any(model.guided_at(t) for t in grid.t[: grid.ode_steps + grid.to_zero]):
        raise UnreachedGradient(
            f"guidance or uncond requires grad, but no step lies in guidance_interval={model.interval}: the grid's "
            f"sigma / alpha goes from {float(model.denoiser.schedule.rho(grid.t[0])):.3g} to "
            f"{float(model.denoiser.schedule.rho(grid.t[grid.ode_steps])):.3g}"
        )


def _check_sample(x: Tensor, name: str, state_dtype: torch.dtype | None) -> Tensor:
    """`x` in the state's dtype, or InvalidInput."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InvalidInput(f"{name} must be a floating tensor, got {got}")
    if x.ndim < 2 or len(x) == 0:
        raise InvalidInput(f"{name} must be (B, ...) with B >= 1, got shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x.detach()).all()):
        raise InvalidInput(f"{name} has values that are not finite")
    half = x.dtype in (torch.float16, torch.bfloat16)
    dtype = state_dtype or (torch.float32 if half else x.dtype)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InvalidInput(f"state_dtype must be a floating dtype, got {dtype}")
    return x.to(dtype)
