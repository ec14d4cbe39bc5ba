"""Stochastic solvers: one Brownian path at every number of steps, strong order, the right marginals, replayed noise."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.models import Denoiser
from adjointdpm.sampler import sample, to_noise
from adjointdpm.schedules import EDM, VPLinear
from adjointdpm.solvers import Ancestral, BrownianPath, EulerMaruyama, Solver
from tests.support.mixture import SingleGaussian, conditioning, noise
from tests.support.problem import Problem, errors, slope

BOTH = [EulerMaruyama, Ancestral]
LIKE = torch.zeros(2, 3, dtype=torch.float64)


def test_increments_add_up_whatever_the_grid() -> None:
    path = BrownianPath(5)
    points = [-2.0, -1.3, 0.2, 0.21, 1.9, 3.0]
    pieces = [path.increment(math.exp, -2, 3, b, a, LIKE) for a, b in itertools.pairwise(points)]
    whole = path.increment(math.exp, -2, 3, 3.0, -2.0, LIKE)
    assert torch.allclose(torch.stack(pieces).sum(0), whole, atol=1e-12)
    again = path.increment(math.exp, -2, 3, 0.21, 0.2, LIKE)  # not changed by what was asked for before
    assert torch.equal(again, pieces[2])


def test_increments_are_normal_with_the_variance_of_the_clock_and_independent() -> None:
    path, like = BrownianPath(7), torch.zeros(20_000, 1, dtype=torch.float64)
    left, right = (path.increment(math.exp, -1, 2, b, a, like) for a, b in ((-0.5, 0.3), (0.3, 1.7)))
    for found, (a, b) in ((left, (-0.5, 0.3)), (right, (0.3, 1.7))):
        assert float(found.var()) == pytest.approx(math.exp(b) - math.exp(a), rel=0.04)
        assert abs(float(found.mean())) < 4 * float(found.std()) / 20_000**0.5
    assert abs(float((left * right).mean() / (left.std() * right.std()))) < 0.03


def test_one_seed_for_each_sample_does_not_depend_on_the_batch() -> None:
    alone = BrownianPath((4,)).increment(math.exp, 0, 1, 1, 0, LIKE[:1])
    pair = BrownianPath((9, 4)).increment(math.exp, 0, 1, 1, 0, LIKE)
    assert torch.equal(alone[0], pair[1])


def strong_errors(make: Any, schedule: Any, steps: list[int]) -> list[float]:
    """Root mean square distance to the same path's solution with many steps, over 64 samples.

    Data of one Gaussian: between modes a path decides for one, and a few samples would make up the whole error.
    """
    model = Denoiser(SingleGaussian(schedule), schedule)
    times = {"t_start": float(schedule.t_of_log_snr(-2.5)), "t_end": float(schedule.t_of_log_snr(2.5))}
    x_T = noise(64) * float(schedule.sigma(times["t_start"]))
    with torch.no_grad():
        ends = [
            sample(model, x_T, cond=conditioning(1), steps=n, solver=make(3), to_zero=False, **times).x0
            for n in (*steps, 8 * steps[-1])
        ]
    return [float((end - ends[-1]).square().mean().sqrt()) for end in ends[:-1]]


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("schedule", [VPLinear(), EDM()], ids=["linear", "edm"])
def test_strong_order(make: Any, schedule: Any) -> None:
    found = strong_errors(make, schedule, [40, 160])
    assert slope(*found, 4) == pytest.approx(make().order, abs=0.2), found


@pytest.mark.parametrize("make", BOTH)
def test_marginals_are_those_of_the_data(make: Any) -> None:
    """One Gaussian: the sample's mean and standard deviation at the end time are the marginal's."""
    schedule = VPLinear()
    net = SingleGaussian(schedule)
    cond = conditioning(1)
    t_end = float(schedule.t_of_log_snr(torch.tensor(2.5, dtype=torch.float64)))
    x_T = torch.randn(8000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        x = sample(
            Denoiser(net, schedule), x_T, cond=cond, steps=100, solver=make(1), t_end=t_end, to_zero=False
        ).x0  # fmt: skip
        means, variance, _ = net.modes_given(cond, x_T[:1])
    t = torch.tensor(t_end, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    want = (alpha**2 * variance[0, 0] + sigma**2).sqrt()
    assert float(x.std(0).mean()) == pytest.approx(float(want), rel=0.03)
    assert torch.allclose(x.mean(0), (alpha * means)[0, 0], atol=0.03)


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("to_zero", [True, False])
def test_one_and_two_steps(make: Any, steps: int, to_zero: bool) -> None:
    problem = Problem()
    settings = {"solver": make(2), "steps": steps, "to_zero": to_zero}
    found = errors(problem.gradients("exact", **settings), problem.gradients("full", **settings))
    assert max(found.values()) == 0
    assert problem.sample("full", **settings).stats.nfe == steps


@pytest.mark.parametrize("make", BOTH)
def test_the_seed_decides(make: Any) -> None:
    problem = Problem()

    def end(seed: Any) -> Tensor:
        with torch.no_grad():
            return problem.sample("full", solver=make(seed)).x0

    assert torch.equal(end(1), end(1))
    assert not torch.equal(end(1), end(2))
    assert torch.equal(end((1, 2))[1], end((5, 2))[1])


@pytest.mark.parametrize("make", BOTH)
def test_bad_uses(make: Any) -> None:
    problem = Problem()
    solver: Solver = make()
    with pytest.raises(InvalidInput, match="reverse SDE"):
        problem.sample("adjoint", solver=solver)
    with pytest.raises(InvalidInput, match="solves form 'exponential'"):
        problem.sample("exact", solver=solver, form="raw")
    with pytest.raises(InvalidInput, match="noise to data"):
        to_noise(problem.denoiser, problem.x_T.detach(), solver=solver, t_end=0.1)
    with pytest.raises(InvalidInput, match="seed"):
        make(-1)
    with pytest.raises(InvalidInput, match="3 seeds were given for a batch of 2"):
        problem.sample("exact", solver=make((1, 2, 3)))
