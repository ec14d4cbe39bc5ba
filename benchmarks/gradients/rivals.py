"""What the engines are held against: plain backprop and checkpoints by hand, torchdiffeq and torchode.

The libraries of ODE solvers get the paper's equation dy/dρ = ε̂ with the grid's ρ as `t`, as the paper's code passes it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import adjointdpm as ad
from adjointdpm.gradients.full import Full
from benchmarks.gradients import floor
from benchmarks.gradients.problem import Problem

__all__ = ["LABELS", "RECIPES", "TOLERANCE", "by_hand", "full_in_float64", "torchdiffeq", "torchode"]

TOLERANCE = 1e-3  # relative and absolute, of the adaptive solvers
RECIPES: dict[str, dict[str, Any]] = {
    "euler": {"method": "euler"},
    "rk4": {"method": "rk4"},
    "adams": {"method": "explicit_adams", "options": {"max_order": 5}},
    "dopri5": {"method": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE},
}

LABELS = {
    "euler": "euler",
    "rk4": "rk4 (3/8 rule)",
    "adams": "explicit_adams, max_order 5",
    "dopri5": "dopri5",
}


def by_hand(reentrant: bool | None, problem: Problem) -> Tensor:
    """Euler by hand: plain backprop if `reentrant` is None, else a checkpoint at each call."""
    first, last = problem.ends
    # a reentrant checkpoint differentiates nothing unless one of its arguments requires grad
    witness = torch.zeros((), requires_grad=True)

    def run(net: nn.Module, call: floor.Call, z: Tensor, cond: Tensor) -> Tensor:
        inner = lambda z, cond, _: floor.field(net, call, z, cond)  # noqa: E731
        return checkpoint(inner, z, cond, witness, use_reentrant=reentrant)  # type: ignore[no-any-return]

    y = problem.x_T / first
    calls = problem.programs["euler"]
    return last * floor.forward(problem.net, calls, y, problem.cond, floor.field if reentrant is None else run)


def full_in_float64(solver: str, problem: Problem) -> Tensor:
    """Plain backprop with a float64 state around the network, as the reversible engine has it."""
    given = {"cond": problem.cond, "grid": problem.grid, "solver": solver, "gradient": Full()}
    return ad.sample(problem.denoiser, problem.x_T, state_dtype=torch.float64, **given).x0


class Field(nn.Module):
    """ε̂ at clock ρ.

    torchdiffeq's adaptive steps go beyond the last node and come back by interpolation; ρ < 0 there is no time at all,
    so the clock is held at the grid's ends.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        ode = problem.ode
        high, *_, low = ode.clock(problem.grid.t).tolist()
        self.parts = ode, problem.grid.t[-1], low, high

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        ode, towards, low, high = self.parts
        return ode.field(y, ode.time(u.double().clamp(low, high)), towards)


def torchdiffeq(name: str, adjoint: bool, problem: Problem) -> Tensor:
    """torchdiffeq over the whole grid, by its adjoint or by backprop through its steps."""
    from torchdiffeq import odeint, odeint_adjoint

    first, last = problem.ends
    clock = problem.ode.clock(problem.grid.t).to(problem.dtype)
    learnt = {"adjoint_params": tuple(leaf for leaf in problem.leaves if leaf is not problem.x_T)} if adjoint else {}
    y = (problem.x_T / first) if problem.x_T.requires_grad or not adjoint else (problem.x_T / first).requires_grad_()
    solve = odeint_adjoint if adjoint else odeint
    path: Tensor = solve(Field(problem), y, clock, **RECIPES[name], **learnt)
    return last * path[-1]


class FlatField(nn.Module):
    """The same for torchode: flat states, a clock for each sample, no parameters of its own."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.field, self.shape = (Field(problem),), problem.x_T.shape[1:]

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        shape = (-1, *self.shape)
        return self.field[0](u.reshape(-1)[0], y.reshape(shape)).reshape(y.shape)  # type: ignore[no-any-return]


def torchode(backsolve: bool, problem: Problem) -> Tensor:
    """torchode's dopri5: backprop through its steps, or its backward solve that stops at every node of the grid.

    The backward solve differentiates to `term.parameters()`, so those are set to what the problem differentiates.
    (`BacksolveAdjoint` maps the field over samples with torch.func.vmap: that fails on the look-up of a discrete time.)
    """
    import torchode as to

    first, last = problem.ends
    clock = problem.ode.clock(problem.grid.t)[None].to(problem.dtype)  # its augmented state has one dtype
    term = to.ODETerm(FlatField(problem))
    method, controller = to.Dopri5(term=term), to.IntegralController(TOLERANCE, TOLERANCE, term=term)
    y = (problem.x_T / first).flatten(1)
    if not backsolve:
        span = to.InitialValueProblem(y, t_start=clock[:, 0], t_end=clock[:, -1])
        solution = to.AutoDiffAdjoint(method, controller, backprop_through_step_size_control=False).solve(span)
    else:
        solver = to.JointBacksolveAdjoint(term, to.Dopri5(term=None), to.IntegralController(TOLERANCE, TOLERANCE))
        learnt = [leaf for leaf in problem.leaves if leaf is not problem.x_T]
        solver.term.parameters = lambda: learnt  # type: ignore[method-assign]
        solver.augmented_term.parameters = learnt
        solution = solver.solve(to.InitialValueProblem(y, t_eval=clock))
    return last * solution.ys[:, -1].reshape(problem.x_T.shape)
