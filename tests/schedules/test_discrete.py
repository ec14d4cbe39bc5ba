"""VPDiscrete: fractional times, kinks, the interval below step 0, zero terminal SNR."""

import math

import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.schedules import VPDiscrete

ALPHAS = torch.cumprod(1 - torch.linspace(1e-3, 0.3, 20, dtype=torch.float64), 0)
ZERO = torch.cat([ALPHAS[:-1], torch.zeros(1, dtype=torch.float64)])


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_training_steps_are_reproduced() -> None:
    schedule = VPDiscrete(ALPHAS)
    t = torch.arange(20, dtype=torch.float64)
    assert torch.allclose(schedule.alpha(t) ** 2, ALPHAS, rtol=1e-14)
    assert schedule.train_steps == 20
    assert (schedule.t_zero, schedule.t_end, schedule.t_start) == (-1.0, 0.0, 19.0)


def test_log_alpha_is_linear_between_steps() -> None:
    schedule = VPDiscrete(ALPHAS)
    low, middle, high = schedule.log_alpha(f64(4.0, 4.25, 5.0))
    assert float(middle) == pytest.approx(0.75 * float(low) + 0.25 * float(high), rel=1e-14)


def test_below_step_0_it_goes_to_the_data() -> None:
    schedule = VPDiscrete(ALPHAS)
    assert float(schedule.log_alpha(-0.5)) == pytest.approx(0.5 * float(schedule.log_alpha(0.0)), rel=1e-14)
    assert float(schedule.sigma(-1.0)) == 0
    assert float(schedule.t_of_log_snr(schedule.log_snr(-0.75))) == pytest.approx(-0.75, abs=1e-12)


def test_derivatives_are_one_sided_at_a_kink() -> None:
    schedule = VPDiscrete(ALPHAS)
    table = 0.5 * ALPHAS.log()
    t, alpha = f64(7.0), schedule.alpha(7.0)
    left, right = schedule.d_alpha(t, t - 1), schedule.d_alpha(t, t + 1)
    assert torch.allclose(left, alpha * (table[7] - table[6]))
    assert torch.allclose(right, alpha * (table[8] - table[7]))
    assert float(left) != float(right)
    inside = f64(7.5)
    assert torch.equal(schedule.d_alpha(inside, inside - 1), schedule.d_alpha(inside, inside + 1))
    assert torch.allclose(schedule.d_sigma(t, t - 1), -alpha * left / schedule.sigma(t))


def test_zero_terminal_snr_is_linear_in_the_angle() -> None:
    schedule = VPDiscrete(ZERO)
    assert float(schedule.alpha(19.0)) == 0
    assert float(schedule.sigma(19.0)) == 1
    t = f64(18.0, 18.5, 19.0)
    angle = torch.atan2(schedule.sigma(t), schedule.alpha(t))
    assert float(angle[1]) == pytest.approx(0.5 * float(angle[0] + angle[2]), rel=1e-12)
    t = torch.linspace(-0.9, 18.99, 60, dtype=torch.float64)
    assert torch.allclose(schedule.t_of_log_snr(schedule.log_snr(t)), t, atol=1e-10)
    assert float(schedule.t_of_log_snr(-math.inf)) == 19.0
    step = 1e-6
    slope = (schedule.alpha(18.5 + step) - schedule.alpha(18.5 - step)) / (2 * step)
    assert float(schedule.d_alpha(18.5, 18.0)) == pytest.approx(float(slope), rel=1e-8)
    last = schedule.d_alpha(f64(18.0), f64(19.0))
    assert float(last) == pytest.approx(float((schedule.alpha(18 + step) - schedule.alpha(18.0)) / step), rel=1e-4)


@pytest.mark.parametrize(
    "values", [[0.9], [[0.9, 0.5]], [0.5, 0.9], [1.0, 0.5], [0.9, 0.5, -0.1], [0.9, 0.0, 0.0], [0.9, math.nan]]
)
def test_bad_alphas(values: list[float]) -> None:
    with pytest.raises(InvalidInput):
        VPDiscrete(values)
