"""The conversion table: every prediction to every mix, singular ends, finite gradients."""

import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.models import Prediction
from adjointdpm.models.convert import coefficients
from adjointdpm.schedules import EDM, RectifiedFlow, Schedule, VPCosine, VPLinear

KINDS = ["eps", "v", "x0", "flow"]
SCHEDULES = [VPLinear(), VPCosine(), EDM(), RectifiedFlow(), RectifiedFlow(shift=2.0)]


def f64(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def prediction(schedule: Schedule, kind: str, t: torch.Tensor, x_0: torch.Tensor, eps: torch.Tensor) -> Prediction:
    """What a perfect network of this kind says at x = alpha x_0 + sigma eps."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    rates = schedule.flow_rates(t, f64(0.0))
    raw = {
        "eps": eps,
        "x0": x_0,
        "v": alpha * eps - sigma * x_0,
        "flow": rates[0] * x_0 + rates[1] * eps,
    }[kind]
    return Prediction(raw, alpha * x_0 + sigma * eps, kind, t, alpha, sigma, rates)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_every_conversion(schedule: Schedule, kind: str) -> None:
    x_0, eps = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = f64(0.4 * schedule.t_start)
    said = prediction(schedule, kind, t, x_0, eps)
    assert torch.allclose(said.x0, x_0, atol=1e-12)
    assert torch.allclose(said.eps, eps, atol=1e-10)
    assert torch.allclose(said.v, said.alpha * eps - said.sigma * x_0, atol=1e-9)
    assert torch.allclose(said.mix(0.3, -2.0), 0.3 * x_0 - 2.0 * eps, atol=1e-9)


def test_flow_network_of_rectified_flow_is_returned_untouched() -> None:
    a, b = coefficients("flow", -1.0, 1.0, f64(0.3), f64(0.7), (f64(-1.0), f64(1.0)))
    assert (float(a), float(b)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("kind", "alpha", "sigma", "p", "q", "says"),
    [("eps", 0.0, 1.0, 1.0, 0.0, "t_start"), ("x0", 1.0, 0.0, 0.0, 1.0, "t_end > 0")],
)
def test_singular_conversions_are_refused(kind: str, alpha: float, sigma: float, p: float, q: float, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        coefficients(kind, p, q, f64(alpha), f64(sigma))  # type: ignore[arg-type]
    a, b = coefficients(kind, q, p, f64(alpha), f64(sigma))  # type: ignore[arg-type]
    assert (float(a), float(b)) == (1.0, 0.0)  # its own quantity is always there


@pytest.mark.parametrize("kind", ["v", "flow", "x0"])
def test_x0_at_alpha_0(kind: str) -> None:
    schedule = RectifiedFlow()
    x_0, eps = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    said = prediction(schedule, kind, f64(1.0), x_0, eps)
    assert torch.allclose(said.x0, x_0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["zero", "start"])
def test_gradients_at_both_ends_are_finite(kind: str, end: str) -> None:
    """Whatever can be asked for at an end has a finite gradient: no 0 * inf from a conversion that is not used."""
    schedule = VPCosine()
    t = f64(0.0 if end == "zero" else 1.0)
    raw = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    x = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    rates = (f64(-1.0), f64(1.0))
    said = Prediction(raw, x, kind, t, schedule.alpha(t), schedule.sigma(t), rates)  # type: ignore[arg-type]
    asked = 0
    for name in ("eps", "x0", "v"):
        try:
            value = getattr(said, name)
        except InvalidInput:
            continue
        asked += 1
        grads = torch.autograd.grad(value.sum(), (raw, x), allow_unused=True)
        assert all(g is None or bool(torch.isfinite(g).all()) for g in grads)
    assert asked >= 1


def test_flow_needs_rates() -> None:
    with pytest.raises(InvalidInput, match="rates"):
        coefficients("flow", 1.0, 0.0, f64(0.5), f64(0.5))
