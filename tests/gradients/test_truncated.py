"""The biased engines: they are what they say (a detached chain), warn, and are refused where they would give zero."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NumericalWarning, UnreachedGradient
from adjointdpm.gradients.truncated import OneStep, RandomTruncation, Truncated, note_bias
from adjointdpm.sampler import sample
from adjointdpm.solvers import SOLVERS
from tests.support.mixture import metric
from tests.support.problem import Problem, errors

REST = ("cond", "guidance", "weights")
ON_THIS_GRID = [name for name in SOLVERS if name not in ("ddim", "dopri5")]
pytestmark = pytest.mark.filterwarnings("ignore::adjointdpm.errors.NumericalWarning")


def by_hand(problem: Problem, k: int, **settings: Any) -> dict[str, Tensor]:
    """The chain's first part under no_grad, plain backprop through the rest: for one-step solvers."""
    with torch.no_grad():
        grid = problem.sample("full", **settings).grid
    cut = grid.steps - k
    first, last = (type(grid)(grid.t[p], grid.alpha[p], grid.sigma[p]) for p in (slice(0, cut + 1), slice(cut, None)))
    with torch.no_grad():
        middle = problem.sample("full", **settings, grid=first).x0
    return problem.gradients("full", wrt=REST, **settings, grid=last, x_T=middle)


@pytest.mark.parametrize("solver", ["euler", "rk4"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("to_zero", [True, False])
def test_truncated_is_the_gradient_of_the_last_steps(solver: str, k: int, to_zero: bool) -> None:
    problem = Problem(settings={"steps": 6, "solver": solver, "to_zero": to_zero})
    problem.x_T.requires_grad_(False)
    found = errors(problem.gradients(Truncated(k), wrt=REST), by_hand(problem, k))
    assert max(found.values()) < 1e-12, found


@pytest.mark.parametrize("solver", ON_THIS_GRID)
def test_truncation_after_all_steps_is_exact(solver: str) -> None:
    problem = Problem(settings={"steps": 4, "solver": solver})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = errors(problem.gradients(Truncated(4)), problem.gradients("full"))
    assert max(found.values()) == 0


@pytest.mark.parametrize("solver", ON_THIS_GRID)
def test_truncation_differs_before(solver: str) -> None:
    problem = Problem(settings={"steps": 4, "solver": solver})
    problem.x_T.requires_grad_(False)
    cut, whole = (problem.gradients(engine, wrt=REST) for engine in (Truncated(1), "full"))
    assert min(errors(cut, whole).values()) > 1e-3
    with torch.no_grad():
        assert torch.equal(problem.sample(Truncated(1)).x0, problem.sample("full").x0)


def test_random_truncation_draws_k() -> None:
    problem = Problem(settings={"steps": 5})
    problem.x_T.requires_grad_(False)
    engine = RandomTruncation(torch.Generator().manual_seed(0))
    seen = set()
    for _ in range(40):
        out = problem.sample(engine)
        seen.add(out.stats.backward()["steps"])
    assert seen == {1, 2, 3, 4, 5}


def test_one_step_is_the_first_guess_moved_to_the_result() -> None:
    problem = Problem("v", settings={"steps": 5})
    out = problem.sample("one_step")
    with torch.no_grad():
        assert torch.allclose(out.x0, problem.sample("full").x0, rtol=1e-14)
    (got,) = torch.autograd.grad(out.x0.sum(), problem.x_T)
    first = problem.sample("full", steps=1, to_zero=True, t_start=problem.settings["t_start"], t_end=None).x0
    (want,) = torch.autograd.grad(first.sum(), problem.x_T)
    assert torch.allclose(got, want, rtol=1e-12)
    assert out.stats.backward()["vjps"] == 1


def test_x_T_is_refused_where_its_gradient_would_be_zero() -> None:
    problem = Problem()
    for engine in (Truncated(2), RandomTruncation(), "truncated", "random_truncation"):
        with pytest.raises(UnreachedGradient, match="would be zero"):
            problem.sample(engine)
    problem.sample(OneStep())  # reaches it
    with torch.no_grad():
        problem.sample(Truncated(2))  # no gradient is asked for


@pytest.mark.parametrize("engine", ["truncated", "random_truncation", "one_step"])
def test_bias_is_warned_of_with_what_a_check_found(engine: str) -> None:
    problem = Problem()
    problem.x_T.requires_grad_(False)
    torch.manual_seed(1)  # random_truncation takes 2 steps of 5
    with pytest.warns(NumericalWarning, match="ad.check_gradients measures"):
        problem.sample(engine)
    note_bias(problem.net, engine, "0.7 off for cond")
    torch.manual_seed(1)
    with pytest.warns(NumericalWarning, match="found it 0.7 off for cond"):
        problem.sample(engine)


def test_bad_settings() -> None:
    for k in (0, -1, 1.5, True):
        with pytest.raises(InvalidInput):
            Truncated(k)  # type: ignore[arg-type]
    t_end = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    problem = Problem()
    problem.x_T.requires_grad_(False)
    for engine in ("truncated", "one_step"):
        with pytest.raises(UnreachedGradient, match="times"):
            problem.sample(engine, t_end=t_end)


def test_constant_memory_and_nothing_without_grad() -> None:
    problem = Problem()
    for leaf in (problem.x_T, problem.cond, problem.guidance, *problem.net.parameters()):
        leaf.requires_grad_(False)
    for engine in ("truncated", "random_truncation", "one_step"):
        assert not sample(problem.denoiser, problem.x_T, steps=3, gradient=engine).x0.requires_grad
    assert not metric(problem.x_T).requires_grad
