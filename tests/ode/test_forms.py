"""The three forms describe one curve: clocks, states, fields, and where each is defined."""

import math

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.models import Denoiser, GuidedDenoiser, Prediction
from adjointdpm.ode import ODE, AngleODE, ExponentialODE, RawODE, make_ode
from adjointdpm.schedules import EDM, RectifiedFlow, Schedule, VPCosine, VPDiscrete, VPLinear, make_grid

ALPHAS = torch.cumprod(1 - torch.linspace(1e-3, 0.3, 20, dtype=torch.float64), 0)
SCHEDULES = [VPLinear(), VPCosine(t_start=0.99), VPDiscrete(ALPHAS), EDM(), RectifiedFlow(2.0, t_start=0.99)]
FORMS = {
    "raw": RawODE,
    "exponential": ExponentialODE,
    "angle": AngleODE,
    "straight": lambda model, schedule: AngleODE(model, schedule, straight=True),
}
X_0, EPS = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def line_model(schedule: Schedule) -> object:
    """A model whose x_0-hat and eps-hat are the constants X_0 and EPS, so alpha X_0 + sigma EPS solves the ODE."""

    def model(x: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return Prediction(alpha * EPS - sigma * X_0, alpha * X_0 + sigma * EPS, "v", t, alpha, sigma)

    return model


def ode(form: str, schedule: Schedule) -> ODE:
    made: ODE = FORMS[form](line_model(schedule), schedule)  # type: ignore[operator]
    return made


def curve(schedule: Schedule, t: Tensor) -> Tensor:
    return schedule.alpha(t) * X_0 + schedule.sigma(t) * EPS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_clock_and_state_are_invertible(schedule: Schedule, form: str) -> None:
    equation = ode(form, schedule)
    t = torch.linspace(schedule.t_end, schedule.t_start, 30, dtype=torch.float64)
    u = equation.clock(t)
    assert bool((u.diff() > 0).all())
    assert torch.allclose(equation.time(u), t, rtol=1e-10, atol=1e-12)
    x = curve(schedule, t[7])
    assert torch.allclose(equation.from_state(equation.to_state(x, t[7]), t[7]), x, rtol=1e-14)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_field_is_the_slope_of_the_curve(schedule: Schedule, form: str) -> None:
    equation = ode(form, schedule)
    t = torch.tensor(schedule.t_end + 0.45 * (schedule.t_start - schedule.t_end), dtype=torch.float64)
    step = 1e-5 * equation.clock(t)
    before, after = (equation.time(equation.clock(t) + s * step) for s in (-1, 1))
    y = [equation.to_state(curve(schedule, s), s) for s in (before, after)]
    slope = (y[1] - y[0]) / (2 * step)
    field = equation.field(equation.to_state(curve(schedule, t), t), t, before)
    assert torch.allclose(field, slope, rtol=1e-6, atol=1e-8)


def test_raw_form_takes_the_slope_of_the_interval_being_stepped() -> None:
    schedule = VPDiscrete(ALPHAS)
    equation = ode("raw", schedule)
    t, x = torch.tensor(7.0, dtype=torch.float64), curve(schedule, torch.tensor(7.0))
    for towards in (6.0, 8.0):
        h = 1e-6 * (towards - 7.0)
        slope = (curve(schedule, t + h) - x) / h
        field = equation.field(x, t, torch.tensor(towards, dtype=torch.float64))
        assert torch.allclose(field, slope, rtol=1e-4, atol=1e-6)
    sides = [equation.field(x, t, torch.tensor(s, dtype=torch.float64)) for s in (6.0, 8.0)]
    assert not torch.allclose(*sides, rtol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_last_step_lands_on_the_data_prediction(form: str) -> None:
    schedule = VPLinear()
    t = torch.tensor(0.3, dtype=torch.float64)
    equation = ode(form, schedule)
    assert torch.allclose(equation.to_data(equation.to_state(curve(schedule, t), t), t), X_0, atol=1e-12)


@pytest.mark.parametrize("schedule", [VPCosine(), RectifiedFlow()])
def test_alpha_0(schedule: Schedule) -> None:
    grid = make_grid(schedule, 4, "uniform")
    for form in ("raw", "angle", "straight"):
        equation = ode(form, schedule)
        equation.check(grid)
        x = curve(schedule, grid.t[0])
        assert bool(torch.isfinite(equation.field(equation.to_state(x, grid.t[0]), grid.t[0], grid.t[1])).all())
    assert float(ode("angle", schedule).clock(grid.t[0])) == pytest.approx(math.pi / 2)
    with pytest.raises(InvalidInput, match='form="angle"'):
        ode("exponential", schedule).check(grid)


def test_forms_by_name() -> None:
    def made(form: str, prediction: str) -> ODE:
        denoiser = Denoiser(lambda x, t, c: x, RectifiedFlow(), prediction)  # type: ignore[arg-type]
        return make_ode(form, GuidedDenoiser(denoiser, None, None, 1.0, X_0))  # type: ignore[arg-type]

    assert isinstance(made("raw", "eps"), RawODE)
    assert isinstance(made("exponential", "eps"), ExponentialODE)
    angle, straight = made("angle", "v"), made("angle", "flow")
    assert isinstance(angle, AngleODE)
    assert isinstance(straight, AngleODE)
    assert not angle.straight
    assert straight.straight
    with pytest.raises(InvalidInput, match="form='cosine'"):
        made("cosine", "eps")
