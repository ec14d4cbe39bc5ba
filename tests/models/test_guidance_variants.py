"""Guidance within an interval of noise levels, and rescaled guidance: the formulas, their gradients, bad values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, UnreachedGradient
from adjointdpm.models import Denoiser, GuidedDenoiser
from adjointdpm.schedules import EDM
from tests.support.problem import Problem, errors

S = EDM()
X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def guided(**options: Any) -> GuidedDenoiser:
    def net(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return torch.tanh(x) * cond[:, :, None]

    cond, uncond = (torch.full((2, 1), value, dtype=torch.float64) for value in (2.0, 0.5))
    return GuidedDenoiser(Denoiser(net, S), cond, uncond, 4.0, X, **options)


@pytest.mark.parametrize("branches", ["batched", "sequential"])
def test_outside_of_the_interval_one_branch_is_evaluated(branches: Any) -> None:
    model = guided(interval=(0.5, 2.0))
    model.denoiser.branches = branches
    both = 2 if branches == "sequential" else 1
    for sigma, factor, calls in ((0.4, 2.0, 1), (0.5, 6.5, both), (2.0, 6.5, both), (2.1, 2.0, 1)):
        model.counter.network_calls = 0
        assert torch.allclose(model(X, torch.tensor(sigma, dtype=torch.float64)).raw, factor * torch.tanh(X))
        assert model.counter.network_calls == calls


def test_rescaling_gives_the_standard_deviation_of_the_conditional_output() -> None:
    t = torch.tensor(1.0, dtype=torch.float64)
    plain, whole, part = (guided(rescale=phi)(X, t).raw for phi in (0.0, 1.0, 0.7))
    assert torch.allclose(whole.std((1, 2)), (2 * torch.tanh(X)).std((1, 2)))
    assert torch.allclose(part, 0.7 * whole + 0.3 * plain)


@pytest.mark.parametrize("branches", ["batched", "sequential"])
def test_gradients_with_both_are_exact(branches: str) -> None:
    problem = Problem(branches=branches, settings={"guidance_interval": (0.3, 5.0), "guidance_rescale": 0.7})
    want = problem.gradients("full", steps=6)
    assert max(errors(problem.gradients("exact", steps=6), want).values()) == 0
    assert max(errors(problem.gradients("full", steps=6, guidance_interval=None), want).values()) > 1e-3
    assert max(errors(problem.gradients("full", steps=6, guidance_rescale=0.0), want).values()) > 1e-3
    problem.settings["guidance_rescale"] = 0.0
    fine = [problem.gradients(engine, steps=300, solver="rk4") for engine in ("adjoint", "full")]
    assert max(errors(*fine).values()) < 0.05  # the field jumps at the interval's ends


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1.0,), "wide", (float("nan"), 1.0)])
def test_bad_intervals(interval: Any) -> None:
    with pytest.raises(InvalidInput, match="guidance_interval"):
        guided(interval=interval)


@pytest.mark.parametrize("rescale", [-0.1, 1.1, True, "much", float("nan")])
def test_bad_rescale(rescale: Any) -> None:
    with pytest.raises(InvalidInput, match="guidance_rescale"):
        guided(rescale=rescale)


def test_an_interval_without_a_step_cannot_carry_a_gradient_to_the_scale() -> None:
    with pytest.raises(UnreachedGradient, match="no step lies in guidance_interval"):
        Problem().sample("exact", guidance_interval=(1e4, 1e5))
