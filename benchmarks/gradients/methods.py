"""The rows: the library's engines and what they are held against, each a way from a problem to a sample with a graph.

`reference` names the row that is plain backprop through the same forward: error (a) compares with it in the same
dtype, error (b) with it in float64.  `floor` is the solver whose floor the time is a multiple of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import adjointdpm as ad
from adjointdpm.gradients.adjoint import Adjoint
from adjointdpm.gradients.base import Engine
from adjointdpm.gradients.exact import Exact
from adjointdpm.gradients.full import Full
from adjointdpm.gradients.reversible import Reversible
from adjointdpm.gradients.truncated import OneStep, RandomTruncation, Truncated
from benchmarks.gradients import floor, rivals
from benchmarks.gradients.problem import CALLS, Problem

__all__ = ["FLOORS", "METHODS", "SHARES", "Method", "gradient", "label_of"]

SHARES = (0.25, 0.5, 0.75, 1.0)  # budgets, of the memory of plain backprop


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        label: its name on the page.
        forward: the end of the solve, with a graph.
        reference, floor: see above.
        kinds: what it can be differentiated to.
    """

    label: str
    forward: Callable[[Problem], Tensor]
    reference: str = "full"
    floor: str = "euler"
    kinds: tuple[str, ...] = ("x_T", "cond", "weights")


def gradient(method: str, problem: Problem) -> tuple[list[Tensor], int, int]:
    """The gradients to the problem's leaves, and calls of the network in forward and backward."""
    problem.begin()
    if method in FLOORS:
        return _floor(FLOORS[method], problem), CALLS[0], 0
    x = METHODS[method].forward(problem)
    forward = CALLS[0]
    problem.loss(x).backward()  # type: ignore[no-untyped-call]
    found = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in problem.leaves]
    return found, forward, CALLS[0] - forward


def _floor(solver: str, problem: Problem) -> list[Tensor]:
    first, last = problem.ends
    to_start = problem.x_T.requires_grad

    def slope(y: Tensor) -> Tensor:
        with torch.enable_grad():
            end = y.detach().requires_grad_()
            return torch.autograd.grad(problem.loss(last * end), end)[0]

    y = problem.x_T.detach() / first
    a = floor.gradient(problem.net, problem.programs[solver], y, problem.cond, slope, to_start)
    return [a / first if leaf is problem.x_T else _of(leaf) for leaf in problem.leaves]


def _of(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _engine(make: Callable[[Problem], Engine], solver: str, problem: Problem) -> Tensor:
    out = ad.sample(
        problem.denoiser, problem.x_T, cond=problem.cond, grid=problem.grid, solver=solver, gradient=make(problem)
    )
    return out.x0


def within(share: float, problem: Problem) -> Exact:
    """A budget of the weights and this share of what plain backprop takes beside them."""
    return Exact(memory=sum(w.nbytes for w in problem.weights) + share * problem.plain_bytes)


_draws = torch.Generator().manual_seed(0)


def _by(make: Callable[[Problem], Engine], solver: str = "euler") -> Callable[[Problem], Tensor]:
    return partial(_engine, make, solver)


BIASED = ("cond", "weights")  # to x_T they are refused: the gradient would be zero
FLOORS = {f"floor_{solver}": solver for solver in ("euler", "heun", "rk4")}
METHODS: dict[str, Method] = {
    "plain": Method("plain backprop, by hand", partial(rivals.by_hand, None)),
    "reentrant": Method("`checkpoint` a call, reentrant", partial(rivals.by_hand, True), "plain"),
    "non-reentrant": Method("`checkpoint` a call, non-reentrant", partial(rivals.by_hand, False), "plain"),
    "full": Method("`full`", _by(lambda _: Full()), "full"),
    "exact": Method("`exact`", _by(lambda _: Exact())),
    **{
        f"exact_{share:g}": Method(f"`exact`, {share:.0%} of plain backprop's memory", _by(partial(within, share)))
        for share in SHARES
    },
    "exact_ab4": Method("`exact`, ab4", _by(lambda _: Exact(), "ab4"), "full_ab4"),
    "exact_heun": Method("`exact`, heun", _by(lambda _: Exact(), "heun"), "full_heun", "heun"),
    "exact_rk4": Method("`exact`, rk4", _by(lambda _: Exact(), "rk4"), "full_rk4", "rk4"),
    "full_rk4": Method("`full`, rk4", _by(lambda _: Full(), "rk4"), "full_rk4", "rk4"),
    "reversible": Method("`reversible`, belm", _by(lambda _: Reversible(), "belm"), "full_belm"),
    "truncated": Method("`truncated`, last step", _by(lambda _: Truncated()), kinds=BIASED),
    "random_truncation": Method("`random_truncation`", _by(lambda _: RandomTruncation(_draws)), kinds=BIASED),
    "one_step": Method("`one_step`", _by(lambda _: OneStep())),
    "adjoint": Method("`adjoint`", _by(lambda _: Adjoint())),
    "adjoint_ab4": Method("`adjoint`, ab4 forward", _by(lambda _: Adjoint(), "ab4"), "full_ab4"),
    "adjoint_paper": Method('`adjoint`, preset "paper"', _by(lambda _: Adjoint(preset="paper"), "ab4"), "full_ab4"),
    **{
        f"torchdiffeq_{name}": Method(
            f"torchdiffeq `odeint_adjoint`, {label}",
            partial(rivals.torchdiffeq, name, True),
            f"torchdiffeq_plain_{name}",
            "rk4" if name == "rk4" else "euler",
        )
        for name, label in rivals.LABELS.items()
    },
    "torchode_autodiff": Method(
        "torchode `AutoDiffAdjoint`, dopri5", partial(rivals.torchode, False), "torchode_autodiff"
    ),
    "torchode_backsolve": Method(
        "torchode `JointBacksolveAdjoint`, dopri5", partial(rivals.torchode, True), "torchode_autodiff"
    ),
}
#: Only compared with.
METHODS |= {
    "full_ab4": Method("", _by(lambda _: Full(), "ab4")),
    "full_heun": Method("", _by(lambda _: Full(), "heun")),
    "full_belm": Method("", partial(rivals.full_in_float64, "belm")),
    **{f"torchdiffeq_plain_{n}": Method("", partial(rivals.torchdiffeq, n, False)) for n in rivals.RECIPES},
}


def label_of(method: str) -> str:
    return METHODS[method].label if method in METHODS else "floor, by hand"
