"""`reversible`: exact to rounding without a stored trajectory, for every prediction; refused where rounding grows."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput, NumericalWarning, UnreachedGradient, WeightsChanged
from adjointdpm.models import Denoiser, GuidedDenoiser
from adjointdpm.numerics import LiveTensorMeter, relative_error
from adjointdpm.ode import make_ode
from adjointdpm.sampler import sample
from adjointdpm.schedules import VPLinear, make_grid
from adjointdpm.solvers import OBELM
from tests.support.mixture import metric, noise
from tests.support.problem import PREDICTIONS, WRT, Problem, errors

VP = VPLinear()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("to_zero", [True, False])
@pytest.mark.parametrize("form", ["exponential", "angle"])
def test_equals_plain_backprop(prediction: str, to_zero: bool, form: str) -> None:
    problem = Problem(prediction, pooled=True)
    settings = {"solver": "belm", "steps": 12, "to_zero": to_zero, "form": form}
    found = errors(problem.gradients("reversible", **settings), problem.gradients("full", **settings))
    assert set(found) == set(WRT)
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("to_zero", [True, False])
@pytest.mark.parametrize("branches", ["batched", "sequential"])
def test_few_steps(steps: int, to_zero: bool, branches: str) -> None:
    problem = Problem(branches=branches)
    settings = {"solver": "belm", "steps": steps, "to_zero": to_zero}
    found = errors(problem.gradients("reversible", **settings), problem.gradients("full", **settings))
    assert max(found.values()) < 1e-11, found


def test_error_at_80_steps_while_the_growth_is_allowed() -> None:
    problem = Problem(settings={"steps": 80, "solver": "belm"})
    found = errors(problem.gradients("reversible"), problem.gradients("full"))
    assert max(found.values()) < 1e-6, found


def test_a_float32_network_with_its_float64_state() -> None:
    """The rounding of the network repeats itself, so it does no harm."""
    problem = Problem(dtype=torch.float32)
    settings = {"solver": "belm", "steps": 40, "state_dtype": torch.float64}
    out = problem.sample("reversible", solver="belm", steps=40)
    assert out.x0.dtype == torch.float64
    found = errors(problem.gradients("reversible", **settings), problem.gradients("full", **settings))
    assert max(found.values()) < 1e-6, found


def test_cost_and_report() -> None:
    out = Problem().sample("reversible", solver="belm", steps=6, to_zero=True)
    metric(out.x0).backward()
    report = out.stats.backward()
    assert out.stats.nfe == 6
    assert report["vjps"] == 6
    assert report["nfe"] == 7  # one more to see whether the network repeats itself
    assert report["round_trip"] < 1e-10


def test_memory_does_not_depend_on_the_steps_states_included() -> None:
    net = nn.Sequential(nn.Linear(2, 512), nn.SiLU(), nn.Linear(512, 2)).requires_grad_(False)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    model = Denoiser(lambda x, t, c: net(x), VP, modules=(net,))

    def peak(steps: int) -> int:
        with LiveTensorMeter() as meter:
            out = sample(
                model, x, steps=steps, solver="belm", gradient="reversible", form="angle", spacing="uniform"
            ).x0
            torch.autograd.grad(out.square().sum(), x)
        return meter.peak_bytes

    states = 64 * 2 * 8
    assert peak(80) - peak(10) < 8 * states  # the grid's own nodes; 70 stored states would be 70


def test_growth_is_refused_with_what_to_do() -> None:
    net = Problem()
    with pytest.raises(InvalidInput, match="multiplies rounding errors by") as caught:
        sample(Denoiser(net.net, VP), noise(), steps=40, solver="belm", gradient="reversible")
    assert 'gradient="exact"' in str(caught.value)
    with pytest.raises(InvalidInput, match="must be float64"):
        net.sample("reversible", solver="belm", state_dtype=torch.float32)


def test_growth_formula() -> None:
    problem = Problem()
    x = problem.x_T.detach()
    ode = make_ode("exponential", GuidedDenoiser(problem.denoiser, problem.cond.detach(), None, 1.0, x))
    grid = make_grid(VP, 5, t_start=0.9, t_end=0.1, to_zero=False)
    h = ode.clock(grid.t).diff()
    assert OBELM.growth(ode, grid) == pytest.approx(float((h[0] / h[-1]) ** 2))
    assert OBELM.growth(ode, grid.reversed()) == pytest.approx(1.0)


def test_belm_is_more_accurate_than_ddim() -> None:
    """Sample error at most half of DDIM's from 20 steps on."""
    problem = Problem()
    with torch.no_grad():
        want = problem.sample("full", steps=800, solver="rk4").x0
        for steps in (20, 40, 80):
            belm, ddim = (problem.sample("full", steps=steps, solver=s).x0 for s in ("belm", "euler"))
            assert relative_error(belm, want) < 0.5 * relative_error(ddim, want)


def test_bad_combinations() -> None:
    problem = Problem()
    t_end = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(InvalidInput, match='needs solver="belm"'):
        problem.sample("reversible", solver="euler")
    with pytest.raises(UnreachedGradient, match="times"):
        problem.sample("reversible", solver="belm", t_end=t_end)


def test_weights_changed_in_between() -> None:
    problem = Problem()
    loss = metric(problem.sample("reversible", solver="belm").x0)
    with torch.no_grad():
        problem.net.means.add_(1.0)
    with pytest.raises(WeightsChanged):
        loss.backward()


def test_a_network_that_does_not_repeat_itself_is_warned_of() -> None:
    calls = 0

    def net(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.tanh(x) * (1 + 1e-7 * calls)

    x = noise().requires_grad_()
    settings: Any = {"steps": 5, "solver": "belm", "form": "angle", "spacing": "uniform", "gradient": "reversible"}
    with pytest.warns(NumericalWarning, match="two results for one input"):
        sample(Denoiser(net, VP), x, **settings).x0.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(Denoiser(lambda x, t, c: torch.tanh(x), VP), x, **settings).x0.sum().backward()


@pytest.mark.parametrize(("solver", "gradient"), [("belm", "reversible"), ("euler", "adjoint")])
def test_one_copy_of_the_weights_gradient(solver: str, gradient: str) -> None:
    """Beside the sums over the steps there is never a second gradient of all weights."""
    layers = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(8)))
    denoiser = Denoiser(lambda x, t, c: layers(x), VPLinear(), "eps")
    grid = make_grid(VPLinear(), 5, "uniform", t_end=0.1, to_zero=False)
    x = torch.randn(1, 256, generator=torch.Generator().manual_seed(0))
    sample(denoiser, x, grid=grid, solver=solver, gradient=gradient).x0.sum().backward()
    layers.zero_grad(set_to_none=True)
    with LiveTensorMeter() as meter:
        sample(denoiser, x, grid=grid, solver=solver, gradient=gradient).x0.sum().backward()
    assert meter.peak_bytes < 1.4 * sum(w.nbytes for w in layers.parameters())
