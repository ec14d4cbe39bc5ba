"""Values at single times are remembered, and never where a stored tensor would be of the wrong kind."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad

from adjointdpm.schedules import VPDiscrete, VPLinear

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 100, dtype=torch.float64), 0)


def time(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("name", ["alpha", "sigma", "rho", "log_snr"])
def test_the_same_value_is_computed_once(name: str) -> None:
    schedule = VPDiscrete(ALPHAS)
    first, again = (getattr(schedule, name)(time(7.5)) for _ in range(2))
    assert first is again
    assert torch.equal(first, getattr(schedule, name)(7.5))  # a number takes the long way
    assert not torch.equal(first, getattr(schedule, name)(time(7.25)))
    assert not torch.equal(VPDiscrete(ALPHAS**2).rho(time(7.5)), schedule.rho(time(7.5)))


def test_gradients_tangents_and_vectors_are_not_lost() -> None:
    schedule = VPLinear()
    schedule.alpha(time(0.5))
    t = time(0.5).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(t), t)
    assert float(slope) == pytest.approx(float(schedule.d_alpha(0.5, 0.4)))
    with forward_ad.dual_level():
        dual = schedule.alpha(forward_ad.make_dual(time(0.5), time(1.0)))
        assert float(forward_ad.unpack_dual(dual).tangent) == pytest.approx(float(slope))
    many = torch.func.vmap(schedule.alpha)(torch.tensor([0.5, 0.6], dtype=torch.float64))
    assert torch.allclose(many, schedule.alpha(torch.tensor([0.5, 0.6], dtype=torch.float64)))


def test_inference_mode_leaves_nothing_behind() -> None:
    schedule = VPLinear()
    with torch.inference_mode():
        schedule.alpha(time(0.25))
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    (x * schedule.alpha(time(0.25))).sum().backward()


def test_the_store_is_bounded() -> None:
    schedule = VPLinear()
    for n in range(5000):
        schedule.alpha(time(1 - n / 10_000))
    assert len(schedule.__dict__["_remembered"]) <= 4096
