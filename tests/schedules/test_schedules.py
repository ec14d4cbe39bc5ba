"""Every continuous schedule: its inverse, its derivatives, its ends."""

import math

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.schedules import EDM, RectifiedFlow, Schedule, VPCosine, VPDiscrete, VPLinear

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
CONTINUOUS = [VPLinear(), VPLinear(0.05, 12.0), VPCosine(), EDM(), RectifiedFlow(), RectifiedFlow(shift=3.0)]
ALL = [*CONTINUOUS, VPDiscrete(ALPHAS)]
IDS = [f"{type(s).__name__}{i}" for i, s in enumerate(ALL)]


def times(schedule: Schedule, count: int = 41) -> Tensor:
    return torch.linspace(schedule.t_end, schedule.t_start, count, dtype=torch.float64)


@pytest.mark.parametrize("schedule", ALL, ids=IDS)
def test_inverse_of_log_snr(schedule: Schedule) -> None:
    t = times(schedule)
    assert torch.allclose(schedule.t_of_log_snr(schedule.log_snr(t)), t, rtol=1e-13, atol=1e-12)
    assert bool((schedule.log_snr(t).diff() < 0).all())


@pytest.mark.parametrize("schedule", ALL, ids=IDS)
def test_inverse_close_to_the_data(schedule: Schedule) -> None:
    """t is recovered to many digits even where alpha is 1 to rounding."""
    t = schedule.t_zero + torch.tensor([1e-3, 1e-5, 1e-7], dtype=torch.float64)
    found = schedule.t_of_log_snr(schedule.log_snr(t))
    assert torch.allclose(found - schedule.t_zero, t - schedule.t_zero, rtol=1e-6)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=IDS[:-1])
def test_derivatives_are_those_of_autograd(schedule: Schedule) -> None:
    t = times(schedule)[1:-1].requires_grad_()
    (d_alpha,) = torch.autograd.grad((schedule.alpha(t) + 0 * t).sum(), t)
    (d_sigma,) = torch.autograd.grad(schedule.sigma(t).sum(), t)
    for towards in (t - 0.1, t + 0.1):
        assert torch.allclose(schedule.d_alpha(t, towards), d_alpha, rtol=1e-11, atol=1e-13)
        assert torch.allclose(schedule.d_sigma(t, towards), d_sigma, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("schedule", ALL, ids=IDS)
def test_ends(schedule: Schedule) -> None:
    assert float(schedule.sigma(schedule.t_zero)) == 0
    assert float(schedule.alpha(schedule.t_zero)) == 1
    assert float(schedule.sigma(schedule.t_end)) > 0
    assert float(schedule.rho(schedule.t_zero)) == 0


@pytest.mark.parametrize("schedule", [VPCosine(), RectifiedFlow(), RectifiedFlow(shift=3.0)])
def test_schedules_that_start_at_alpha_0(schedule: Schedule) -> None:
    assert float(schedule.alpha(1.0)) == 0
    assert float(schedule.t_of_log_snr(-math.inf)) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("schedule", [VPLinear(), VPCosine(), VPDiscrete(ALPHAS)])
def test_variance_is_preserved(schedule: Schedule) -> None:
    t = times(schedule)
    assert torch.allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t), atol=1e-14)


@pytest.mark.parametrize("schedule", ALL, ids=IDS)
def test_a_time_may_carry_a_gradient(schedule: Schedule) -> None:
    t = (0.3 * times(schedule)[-1:] + 0.171).requires_grad_()
    (rate,) = torch.autograd.grad(schedule.t_of_log_snr(schedule.log_snr(t)).sum(), t)
    assert float(rate) == pytest.approx(1.0, rel=1e-10)


def test_flow_shift_and_network_time() -> None:
    flow = RectifiedFlow(shift=3.0, time_scale=1000.0)
    t = torch.tensor(0.5, dtype=torch.float64)
    assert float(flow.sigma(t)) == pytest.approx(0.75)
    assert float(flow.net_time(t)) == pytest.approx(750.0)
    d_alpha, d_sigma = flow.flow_rates(t, torch.tensor(0.0))
    assert (float(d_alpha), float(d_sigma)) == (-1.0, 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VPLinear(beta_0=0.0),
        lambda: VPLinear(beta_0=2.0, beta_1=1.0),
        lambda: VPCosine(s=0.0),
        lambda: EDM(t_end=0.0),
        lambda: RectifiedFlow(shift=-1.0),
        lambda: RectifiedFlow(shift=math.nan),
    ],
)
def test_bad_settings(make: object) -> None:
    with pytest.raises(InvalidInput):
        make()  # type: ignore[operator]
