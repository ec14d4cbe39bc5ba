"""Order of convergence of every solver, on an ODE with a closed solution and on one without.

Conditions under which theory's order shows: a continuous schedule, a logSNR or Karras grid, an end time > 0, 160 to 640
steps, and a start of full order for the multistep methods.  Observed orders must lie within 0.2 of theory.
"""

import functools
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.models import Denoiser
from adjointdpm.sampler import sample
from adjointdpm.schedules import EDM, RectifiedFlow, Schedule, VPCosine, VPDiscrete, VPLinear
from adjointdpm.solvers import RK4, SOLVERS, AdamsBashforth, Solver
from tests.support.mixture import SingleGaussian, conditioning, noise
from tests.support.problem import OF_FULL_ORDER, Problem, slope

SCHEDULES: dict[str, Schedule] = {
    "linear": VPLinear(),
    "cosine": VPCosine(),
    "edm": EDM(),
    "flow": RectifiedFlow(),
}
#: First times with alpha > 0 where the schedule's own has none.
START = {"cosine": 0.95, "flow": 0.98}
FORMS = ("exponential", "raw", "angle")
SPACINGS = ("logsnr", "karras")
COARSE, FINE = 160, 640


def closed_error(schedule: str, form: Any, spacing: Any, solver: Solver, steps: int) -> float:
    """Distance to the closed solution for one Gaussian, log-SNR from the start to 3."""
    s = SCHEDULES[schedule]
    prediction: Any = "flow" if schedule == "flow" else "eps"
    net = SingleGaussian(s, prediction)
    t_start, t_end = START.get(schedule, s.t_start), float(s.t_of_log_snr(3.0))
    x_T, cond = noise() * float(s.sigma(t_start)), conditioning()
    with torch.no_grad():
        got = sample(
            Denoiser(net, s, prediction), x_T, cond=cond, steps=steps, spacing=spacing, solver=solver, form=form,
            gradient="full", t_start=t_start, t_end=t_end, to_zero=False,
        ).x0  # fmt: skip
        return float((got - net.solution(x_T, t_start, t_end, cond)).norm())


def check_order(schedule: str, form: str, spacing: str, name: str) -> None:
    solver = OF_FULL_ORDER[name]
    errors = [closed_error(schedule, form, spacing, solver, steps) for steps in (COARSE, FINE)]
    assert slope(*errors, FINE / COARSE) == pytest.approx(solver.order, abs=0.2), errors


def applicable(form: str, name: str) -> bool:
    return form in OF_FULL_ORDER[name].forms


NAMES = list(OF_FULL_ORDER)
#: Every schedule in every form, spacings and solvers in turn (every solver meets the guided mixture below).
SAMPLE = [
    (schedule, form, SPACINGS[(i + j) % 2], name if applicable(form, name) else "ab4")
    for i, schedule in enumerate(SCHEDULES)
    for j, form in enumerate(FORMS)
    for name in [NAMES[(2 * j + 3 * i + (j == 0)) % len(NAMES)]]
]
PRODUCT = [c for c in itertools.product(SCHEDULES, FORMS, SPACINGS, OF_FULL_ORDER) if applicable(c[1], c[3])]


@pytest.mark.parametrize(("schedule", "form", "spacing", "name"), SAMPLE)
def test_order(schedule: str, form: str, spacing: str, name: str) -> None:
    check_order(schedule, form, spacing, name)


@pytest.mark.full
@pytest.mark.parametrize(("schedule", "form", "spacing", "name"), [c for c in PRODUCT if c not in SAMPLE])
def test_order_product(schedule: str, form: str, spacing: str, name: str) -> None:
    check_order(schedule, form, spacing, name)


@functools.cache
def mixture_reference() -> Tensor:
    """The guided mixture's sample by rk4 with so many steps that its error is below 1e-13."""
    with torch.no_grad():
        return Problem().sample("full", steps=1280, form="angle", solver="rk4").x0


@pytest.mark.parametrize("name", OF_FULL_ORDER)
def test_order_on_a_guided_mixture(name: str) -> None:
    """A field that is not linear in x, so that every order condition of the method counts."""
    solver, errors = OF_FULL_ORDER[name], []
    for steps in (COARSE, FINE):
        with torch.no_grad():
            got = Problem().sample("full", steps=steps, solver=solver).x0
        errors.append(float((got - mixture_reference()).norm()))
    assert slope(*errors, FINE / COARSE) == pytest.approx(solver.order, abs=0.2), errors


@pytest.mark.parametrize("order", [3, 4])
def test_euler_start_limits_the_order_to_two(order: int) -> None:
    """On the raw form; on the exponential one the first steps are so short beside the rest that it hardly shows."""
    errors = [closed_error("linear", "raw", "logsnr", AdamsBashforth(order), steps) for steps in (COARSE, FINE)]
    assert slope(*errors, FINE / COARSE) == pytest.approx(2, abs=0.2), errors


def test_kinks_of_a_discrete_schedule_limit_the_order_of_rk4() -> None:
    """log alpha is piecewise linear: why order is shown on continuous schedules."""
    discrete = VPDiscrete(torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), 0))
    SCHEDULES["discrete"] = discrete
    try:
        errors = [closed_error("discrete", "raw", "logsnr", RK4, steps) for steps in (COARSE, FINE)]
    finally:
        del SCHEDULES["discrete"]
    assert slope(*errors, FINE / COARSE) < 3, errors


def test_higher_order_is_more_accurate_at_equal_steps() -> None:
    errors = [closed_error("linear", "exponential", "logsnr", SOLVERS[name], 40) for name in ("euler", "heun", "rk4")]
    assert errors[0] > 5 * errors[1] > 50 * errors[2]
