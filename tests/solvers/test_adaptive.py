"""dopri5: the grid that it accepts, against torchdiffeq, and the same gradients as any fixed-grid solve on it."""

from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor

from adjointdpm.errors import InvalidInput, NotConverged
from adjointdpm.models import GuidedDenoiser
from adjointdpm.ode import make_ode
from adjointdpm.sampler import to_noise
from adjointdpm.schedules import make_grid
from adjointdpm.solvers import DOPRI5, RK4, Dopri5
from tests.support.problem import PREDICTIONS, Problem, errors, slope


def reference(problem: Problem) -> Tensor:
    with torch.no_grad():
        return problem.sample("full", steps=800, solver=RK4).x0


def test_fixed_tableau_is_of_order_five() -> None:
    """Between 40 and 80 steps: with more, rounding hides it."""
    problem, settings = Problem(), {"solver": DOPRI5, "form": "angle", "spacing": "karras"}
    with torch.no_grad():
        want, *ends = (problem.sample("full", steps=n, **settings).x0 for n in (640, 40, 80))
    found = [float((end - want).norm()) for end in ends]
    assert slope(*found, 2) == pytest.approx(DOPRI5.order, abs=0.2), found


@pytest.mark.parametrize("form", ["exponential", "raw", "angle"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_error_follows_the_tolerance(form: str, tolerance: float) -> None:
    problem = Problem()
    with torch.no_grad():
        got = problem.sample("full", solver=Dopri5(tolerance, tolerance), form=form)
    assert float((got.x0 - reference(problem)).abs().max()) < 30 * tolerance
    assert got.grid.t[0] == problem.settings["t_start"]
    assert got.grid.t[-1] == problem.settings["t_end"]


def test_about_as_many_evaluations_as_torchdiffeq_for_the_same_error() -> None:
    problem = Problem(batch=1)
    x, s = problem.x_T.detach(), problem.denoiser.schedule
    model = GuidedDenoiser(problem.denoiser, problem.cond.detach(), torch.zeros(1, 3, dtype=torch.float64), 2.0, x)
    ode = make_ode("exponential", model)
    t = torch.tensor([problem.settings["t_start"], problem.settings["t_end"]], dtype=torch.float64)
    calls = 0

    def field(u: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return ode.field(y, ode.time(u.clamp(min=0.01)), t[1])  # it steps past the end and interpolates

    with torch.no_grad():
        theirs = torchdiffeq.odeint(field, ode.to_state(x, t[0]), ode.clock(t), rtol=1e-6, atol=1e-6)[-1]
        grid = Dopri5(1e-6, 1e-6).accept(ode, x, make_grid(s, 2, t_start=float(t[0]), t_end=float(t[1]), to_zero=False))
        ours = problem.sample("full", solver=DOPRI5, grid=grid, guidance=2.0).x0
    assert torch.allclose(ours, ode.from_state(theirs, t[1]), atol=1e-5)
    assert 6 * grid.steps < 1.5 * calls


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("to_zero", [True, False])
def test_gradients_are_those_of_the_accepted_grid(prediction: str, to_zero: bool) -> None:
    problem = Problem(prediction, settings={"to_zero": to_zero})
    grid = problem.sample("exact", solver="dopri5").grid
    assert grid.to_zero == to_zero
    want = problem.gradients("full", solver=DOPRI5, grid=grid)
    for engine in ("exact", "full"):
        assert max(errors(problem.gradients(engine, solver="dopri5"), want).values()) == 0
    assert max(errors(problem.gradients("adjoint", solver="dopri5"), want).values()) < 0.02


def test_to_noise_and_back() -> None:
    problem = Problem()
    settings: Any = {"t_start": problem.settings["t_start"], "t_end": problem.settings["t_end"]}
    solver = Dopri5(1e-9, 1e-9)
    with torch.no_grad():
        x_0 = problem.sample("full", solver=solver, guidance=1.0).x0
        back = to_noise(problem.denoiser, x_0, cond=problem.cond, solver=solver, **settings).x0
    assert torch.allclose(back, problem.x_T, atol=1e-6)


def test_a_step_to_zero_alone() -> None:
    out = Problem(settings={"to_zero": True, "steps": 1}).sample("exact", solver="dopri5")
    assert out.grid.steps == 1
    assert out.stats.nfe == 1


def test_maximum_of_evaluations() -> None:
    with pytest.raises(NotConverged, match=r"spent 49 of max_nfe=50 evaluations and has come from t=.* to t="):
        Problem().sample("exact", solver=Dopri5(1e-12, 1e-12, max_nfe=50))


def test_bad_settings() -> None:
    for bad in ({"rtol": -1.0}, {"rtol": 0.0, "atol": 0.0}, {"max_nfe": 3}, {"rtol": float("nan")}):
        with pytest.raises(InvalidInput):
            Dopri5(**bad)
    with pytest.raises(InvalidInput, match="chooses its own"):
        Problem().sample("exact", solver="dopri5", t_end=torch.tensor(0.2, dtype=torch.float64, requires_grad=True))
