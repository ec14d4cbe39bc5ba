"""The continuous adjoint: how fast it approaches the exact gradient, what it costs, and how it behaves as autograd."""

import functools
import itertools
import warnings
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor

from adjointdpm.errors import InvalidInput, NumericalWarning, UnreachedGradient, WeightsChanged
from adjointdpm.gradients.adjoint import Adjoint
from adjointdpm.gradients.augmented import Augmented, differentiated
from adjointdpm.gradients.backward import Backward, quadrature_weights
from adjointdpm.models import Denoiser, GuidedDenoiser
from adjointdpm.numerics import LiveTensorMeter
from adjointdpm.ode import make_ode
from adjointdpm.sampler import sample, to_noise
from adjointdpm.schedules import Grid, VPDiscrete, VPLinear, make_grid
from adjointdpm.solvers import SOLVERS, AdamsBashforth, integrate
from tests.support.mixture import GaussianMixture, conditioning, metric, noise
from tests.support.problem import OF_FULL_ORDER, PREDICTIONS, WRT, Problem, errors, slope

COARSE, FINE = 80, 240
PAIRS = [
    *((forward, "rk4") for forward in ("euler", "heun", "ab2", "ab3", "ab4", "dpmpp2m", "rk4")),
    *(("rk4", backward) for backward in ("euler", "heun", "ab2", "ab3", "ab4")),
    ("ab4", "ab4"),
]
ORDER = {"euler": 1, "heun": 2, "rk4": 4, "ab2": 2, "ab3": 3, "ab4": 4, "dpmpp2m": 2}


@functools.cache
def exact(forward: str, steps: int, form: str = "exponential", to_zero: bool = False) -> dict[str, Tensor]:
    return Problem().gradients(
        "full", solver=OF_FULL_ORDER[forward], steps=steps, form=form, to_zero=to_zero, spacing="logsnr"
    )


def gap(
    engine: Adjoint, forward: str, steps: int, form: str = "exponential", to_zero: bool = False
) -> dict[str, float]:
    """Relative difference of the adjoint to the exact gradient of the same forward."""
    got = Problem().gradients(engine, solver=OF_FULL_ORDER[forward], steps=steps, form=form, to_zero=to_zero)
    return errors(got, exact(forward, steps, form, to_zero))


def check_slope(forward: str, backward: Any, trajectory: Any, form: str = "exponential", to_zero: bool = False) -> None:
    engine = Adjoint(backward, trajectory)
    scale = 2 if forward == "ab4" else 1  # its start, of another method, shows for longer
    coarse, fine = (gap(engine, forward, scale * steps, form, to_zero) for steps in (COARSE, FINE))
    expected = min(ORDER[forward], ORDER[backward])
    for wrt in WRT:
        assert fine[wrt] > 1e-12, "nothing left to see a slope in"
        assert slope(coarse[wrt], fine[wrt], FINE / COARSE) == pytest.approx(expected, abs=0.3), (wrt, coarse, fine)


@pytest.mark.parametrize(("forward", "backward"), PAIRS)
def test_falls_at_the_lower_of_both_orders(forward: str, backward: str) -> None:
    check_slope(forward, backward, "stored")


@pytest.mark.full
@pytest.mark.parametrize(("forward", "backward"), PAIRS)
@pytest.mark.parametrize(("trajectory", "to_zero"), [("resolved", False), ("stored", True), ("resolved", True)])
def test_falls_at_the_lower_of_both_orders_product(forward: str, backward: str, trajectory: str, to_zero: bool) -> None:
    if trajectory == "resolved" and (forward, backward) in {("rk4", "rk4"), ("ab3", "rk4"), ("dpmpp2m", "rk4")}:
        # The two leading terms nearly cancel in these; the order is seen in all gradients together.
        engine = Adjoint(backward, trajectory)
        sizes = [max(gap(engine, forward, steps, to_zero=to_zero).values()) for steps in (COARSE, FINE)]
        assert slope(*sizes, FINE / COARSE) > min(ORDER[forward], ORDER[backward]) - 0.3
    else:
        check_slope(forward, backward, trajectory, to_zero=to_zero)


@pytest.mark.parametrize("form", ["raw", "angle"])
def test_the_other_forms_fall_at_order_four_too(form: str) -> None:
    check_slope("rk4", "rk4", "stored", form)


def test_resolved_trajectory_and_a_last_step_to_zero() -> None:
    check_slope("ab4", "ab4", "resolved", to_zero=True)


def test_rk4_comes_within_1e_6() -> None:
    found = gap(Adjoint(), "rk4", 80, to_zero=True)
    assert max(found.values()) < 1e-6, found


def test_raw_and_exponential_adjoint_share_one_limit() -> None:
    """Eq. 13-14: the same gradient, up to the discretisation error of both, which falls at order four."""
    raw, exponential = (
        [Problem().gradients(Adjoint(), solver="rk4", steps=steps, form=form) for steps in (COARSE, FINE)]
        for form in ("raw", "exponential")
    )
    coarse, fine = (errors(a, b) for a, b in zip(raw, exponential, strict=True))
    assert max(fine.values()) < 1e-6
    for wrt in WRT:
        assert slope(coarse[wrt], fine[wrt], FINE / COARSE) > 3.5, (coarse, fine)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("backward", ["euler", "heun", "rk4", "ab2", "ab4"])
def test_one_and_two_steps_are_finite(prediction: str, backward: Any) -> None:
    problem = Problem(prediction, pooled=True)
    for steps, to_zero, trajectory in itertools.product((1, 2), (False, True), ("stored", "resolved")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            found = problem.gradients(Adjoint(backward, trajectory), steps=steps, to_zero=to_zero, form="angle")
        assert all(bool(torch.isfinite(g).all()) and bool(g.any()) for g in found.values()), (steps, to_zero)


@pytest.mark.parametrize("solver", [n for n, solver in SOLVERS.items() if n != "ddim" and not solver.stochastic])
def test_one_step_to_zero_is_differentiated_exactly(solver: str) -> None:
    """The step to sigma = 0 is no part of the ODE: with nothing before it the adjoint is the exact gradient."""
    settings = {"steps": 1, "to_zero": True, "solver": solver}
    found = errors(Problem().gradients(Adjoint(), **settings), Problem().gradients("full", **settings))
    assert max(found.values()) < 1e-14, found


# Quadrature


def backward_by_augmented_state(order: int, steps: int) -> dict[str, Tensor]:
    """Adams-Bashforth on the whole augmented state [a, dL/dc, dL/ds, dL/d theta], one history of all of it."""
    p = Problem()
    grid = make_grid(p.schedule, steps, "logsnr", p.settings["t_start"], p.settings["t_end"], to_zero=False)
    blank = torch.zeros_like(p.cond)
    ode = make_ode("exponential", GuidedDenoiser(p.denoiser, p.cond, blank, p.guidance, p.x_T))
    nodes: list[Tensor] = [ode.to_state(p.x_T, grid.t[0]).detach()]
    with torch.no_grad():
        integrate(SOLVERS["rk4"], ode, p.x_T, grid, lambda n, t, state: nodes.append(state.y))
    leaves = [p.cond, p.guidance, *p.net.parameters()]

    def rates(n: int, a: Tensor) -> list[Tensor]:
        y = nodes[n].clone().requires_grad_(True)
        found = torch.autograd.grad(ode.field(y, grid.t[n], grid.t[n - 1]), [y, *leaves], a, allow_unused=True)
        return [torch.zeros_like(w) if g is None else -g for g, w in zip(found, [y, *leaves], strict=True)]

    last = nodes[-1].clone().requires_grad_(True)
    (a,) = torch.autograd.grad(metric(ode.from_state(last, grid.t[-1])), last)
    state = [a, *(torch.zeros_like(w) for w in leaves)]
    history: list[list[Tensor]] = []
    for m in range(steps):
        history = [rates(steps - m, state[0]), *history][:order]
        w = AdamsBashforth(order).weights(ode, m, grid.reversed()).tolist()
        state = [s + sum(w_j * h[i] for w_j, h in zip(w, history, strict=True)) for i, s in enumerate(state)]
    weights = torch.cat([g.flatten() for g in state[3:]])
    return {
        "x_T": (state[0] / ode.scale(grid.t[0])).flatten().detach(),
        "cond": state[1].flatten(),
        "guidance": state[2].flatten(),
        "weights": weights,
    }


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_quadrature_is_what_the_augmented_state_gives(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One copy of the weights' gradient and the weights W_m give what a history of all gradients would."""
    monkeypatch.setattr(Adjoint, "method", property(lambda self: AdamsBashforth(order, start="euler")))
    got = Problem().gradients(Adjoint(f"ab{order}"), solver="rk4", steps=30)  # type: ignore[arg-type]
    found = errors(got, backward_by_augmented_state(order, 30))
    assert max(found.values()) < 1e-12, found


@pytest.mark.parametrize("method", [AdamsBashforth(k, start=s) for k in (1, 2, 3, 4) for s in ("euler", "rk4")])  # type: ignore[arg-type]
def test_quadrature_weights(method: AdamsBashforth) -> None:
    """They integrate a constant exactly, and on a steep grid some are negative or the history would not matter."""
    problem = Problem()
    grid = make_grid(problem.schedule, 12, "logsnr", to_zero=False)
    model = GuidedDenoiser(problem.denoiser, problem.cond, torch.zeros_like(problem.cond), 2.0, problem.x_T)
    ode = make_ode("exponential", model)
    solve = Backward(Augmented(ode, *differentiated(model), [True] * 7), grid, [problem.x_T] * 13, resolved=False)
    totals = quadrature_weights(method, solve)
    inner = sum(
        (1 - SOLVERS["rk4"].b[0]) * float(solve.clock[m + 1] - solve.clock[m])  # type: ignore[attr-defined]
        for m in range(grid.steps)
        if method.starting(m)
    )
    assert sum(totals) + inner == pytest.approx(float(solve.clock[-1] - solve.clock[0]), rel=1e-12)
    assert (min(totals) < 0) == (method.order > 1)


# Outside oracle: the package that the paper used


class ExponentialField(torch.nn.Module):
    """dy/drho = eps-hat(alpha y, t(rho)) of an unguided problem, for torchdiffeq."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.net, self.schedule = problem.net, problem.schedule
        self.cond = torch.nn.Parameter(problem.cond.detach().clone())

    def forward(self, rho: Tensor, y: Tensor) -> Tensor:
        t = self.schedule.t_of_log_snr(-rho.log())
        return self.net(self.schedule.alpha(t) * y, t, self.cond)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_torchdiffeq_agrees(method: str) -> None:
    """Its odeint_adjoint over the whole grid restarts in every interval from the stored state, as our default does."""
    problem = Problem()
    schedule, steps = problem.schedule, 60
    grid = make_grid(schedule, steps, "logsnr", problem.settings["t_start"], problem.settings["t_end"], to_zero=False)
    field, y = ExponentialField(problem), (problem.x_T / schedule.alpha(grid.t[0])).detach().requires_grad_()
    path = torchdiffeq.odeint_adjoint(field, y, schedule.rho(grid.t), method=method, rtol=1e-9, atol=1e-11)
    found = torch.autograd.grad(
        metric(path[-1] * schedule.alpha(grid.t[-1])), [y, field.cond, *problem.net.parameters()]
    )
    ours = problem.gradients(
        Adjoint(), steps=steps, solver="rk4", guidance=1.0, uncond=None, wrt=["x_T", "cond", "weights"]
    )
    theirs = {
        "x_T": found[0].flatten() / schedule.alpha(grid.t[0]),
        "cond": found[1].flatten(),
        "weights": torch.cat([g.flatten() for g in found[2:]]),
    }
    gaps = errors(ours, theirs)
    assert max(gaps.values()) < (1e-6 if method == "rk4" else 1e-5), gaps


# The paper's own combination


def test_paper_preset_is_ab4_with_the_trajectory_solved_again() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        paper, spelled = (
            Problem().gradients(engine, steps=20) for engine in (Adjoint(preset="paper"), Adjoint("ab4", "resolved"))
        )
    assert all(torch.equal(paper[wrt], spelled[wrt]) for wrt in WRT)


def test_paper_preset_says_when_it_blows_up() -> None:
    """Few logSNR steps grow too fast towards the noise for AB4: the gradient is worthless, and a warning says so."""
    vp = VPLinear()
    problem = Problem(settings={"t_start": vp.t_start, "t_end": vp.t_end, "steps": 20, "solver": "ab4"})
    with pytest.warns(NumericalWarning, match="has not converged"):
        got = problem.gradients(Adjoint(preset="paper"))
    assert min(errors(got, problem.gradients("full")).values()) > 10
    with warnings.catch_warnings():
        warnings.simplefilter("error", NumericalWarning)
        assert max(errors(problem.gradients(Adjoint()), problem.gradients("full")).values()) < 0.2


@pytest.mark.parametrize("backward", ["euler", "ab2", "ab4"])
def test_a_low_order_or_multistep_backward_says_so_without_a_drift_to_see(backward: Any) -> None:
    vp = VPLinear()
    problem = Problem(settings={"t_start": vp.t_start, "t_end": vp.t_end, "steps": 10, "solver": "rk4"})
    with pytest.warns(NumericalWarning, match="from those of another order"):
        problem.gradients(Adjoint(backward))


def test_paper_preset_converges_with_many_steps() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", NumericalWarning)
        found = gap(Adjoint(preset="paper"), "ab4", FINE)
    assert max(found.values()) < 1e-4, found


# Cost


def stats_of(engine: Adjoint, steps: int, to_zero: bool) -> dict[str, Any]:
    out = Problem().sample(engine, steps=steps, solver="rk4", to_zero=to_zero)
    assert "vjps" not in out.stats.backward()
    out.x0.sum().backward()
    return out.stats.backward()


@pytest.mark.parametrize(
    ("engine", "nfe", "vjps"),
    [
        (Adjoint(), 3 * 10 + 1, 4 * 10),  # neighbouring intervals share the point at their common node
        (Adjoint("rk4", "resolved"), 4 * 10, 4 * 10),
        (Adjoint("heun"), 10 + 1, 2 * 10),
        (Adjoint("euler"), 10, 10),
        (Adjoint("ab4", "resolved"), 10 + 3 * 3, 10 + 3 * 3),
    ],
)
@pytest.mark.filterwarnings("ignore::adjointdpm.errors.NumericalWarning")
def test_cost(engine: Adjoint, nfe: int, vjps: int) -> None:
    stats = stats_of(engine, 10, to_zero=False)
    assert (stats["nfe"], stats["vjps"]) == (nfe, vjps)
    stats = stats_of(engine, 11, to_zero=True)
    assert (stats["nfe"], stats["vjps"]) == (nfe + 1, vjps + 1)
    assert stats["seconds"] > 0


class Wide(torch.nn.Module):
    """Activations far larger than the state."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.inner = torch.nn.Parameter(0.1 * torch.randn(2, 4096, generator=g, dtype=torch.float64))
        self.outer = torch.nn.Parameter(0.01 * torch.randn(4096, 2, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return x + (x @ self.inner).tanh().sin() @ self.outer


def peak_bytes(engine: Any, steps: int) -> int:
    denoiser, x = Denoiser(Wide(), VPLinear()), noise(64).requires_grad_()
    with LiveTensorMeter() as meter:
        sample(denoiser, x, steps=steps, solver="heun", gradient=engine).x0.square().sum().backward()
    return meter.peak_bytes


@pytest.mark.parametrize("engine", ["exact", Adjoint(), Adjoint("ab2", "resolved")])
@pytest.mark.filterwarnings("ignore::adjointdpm.errors.NumericalWarning")
def test_peak_memory_does_not_grow_with_the_steps(engine: Any) -> None:
    few, many = peak_bytes(engine, 10), peak_bytes(engine, 80)
    assert many <= 1.1 * few, (few, many)
    assert peak_bytes("full", 20) > 3 * many


# Behaviour as PyTorch's


def test_only_what_is_asked_for_is_computed_and_nothing_is_left_in_grad() -> None:
    problem = Problem()
    (alone,) = torch.autograd.grad(problem.loss(Adjoint()), [problem.cond])
    assert torch.equal(alone.flatten(), problem.gradients(Adjoint())["cond"])
    assert all(p.grad is None for group in problem.groups.values() for p in group)


def test_gradients_have_the_dtype_of_what_they_belong_to() -> None:
    """Network and leaves in float32, state in float64: the integrals are gathered and cast back."""
    problem = Problem(dtype=torch.float32)
    problem.loss(Adjoint(), state_dtype=torch.float64).backward()
    for group in problem.groups.values():
        assert all(p.grad is None or (p.grad.dtype == torch.float32 and p.grad.shape == p.shape) for p in group)
    found = {wrt: torch.cat([p.grad.flatten() for p in g if p.grad is not None]) for wrt, g in problem.groups.items()}
    want = Problem().gradients(Adjoint())
    assert float((found["x_T"] - want["x_T"]).norm() / want["x_T"].norm()) < 1e-4


def test_frozen_weights_and_plain_inputs_get_no_gradient() -> None:
    problem = Problem()
    problem.net.requires_grad_(False)
    problem.loss(Adjoint(), cond=problem.cond.detach(), guidance=2.0).backward()
    assert problem.x_T.grad is not None
    assert all(p.grad is None for p in problem.net.parameters())
    plain = problem.loss(Adjoint(), x_T=problem.x_T.detach(), cond=problem.cond.detach(), guidance=2.0)
    assert not plain.requires_grad


def test_retain_graph_accumulation_and_two_results_at_once() -> None:
    problem = Problem()
    first, second = problem.loss(Adjoint()), problem.loss(Adjoint(), steps=7)
    expected = [problem.gradients(Adjoint()), problem.gradients(Adjoint(), steps=7)]
    first.backward(retain_graph=True)
    first.backward()
    second.backward()
    want = 2 * expected[0]["x_T"] + expected[1]["x_T"]
    assert problem.x_T.grad is not None
    assert torch.allclose(problem.x_T.grad.flatten(), want, rtol=1e-13)
    with pytest.raises(RuntimeError, match="second time"):
        first.backward()


def test_gradient_of_the_gradient_is_refused() -> None:
    problem = Problem()
    (g,) = torch.autograd.grad(problem.loss(Adjoint()), [problem.x_T], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


@pytest.mark.parametrize("edit", ["in place", "data"])
def test_changed_weights_raise(edit: str) -> None:
    problem = Problem()
    loss = problem.loss(Adjoint())
    with torch.no_grad():
        problem.net.means.add_(0.1) if edit == "in place" else problem.net.means.data.mul_(1.1)
    with pytest.raises(WeightsChanged, match="means"):
        loss.backward()


def test_network_is_as_it_was_in_the_forward() -> None:
    """Weights frozen, and the train mode switched, after the forward: backward sees neither, and leaves both alone."""
    problem = Problem()
    want, loss = problem.gradients(Adjoint()), problem.loss(Adjoint())
    problem.net.train()
    problem.net.requires_grad_(False)
    got = torch.autograd.grad(loss, [problem.x_T])[0]
    assert torch.equal(got.flatten(), want["x_T"])
    assert problem.net.training
    assert not any(p.requires_grad for p in problem.net.parameters())


def test_autocast_of_the_forward_is_in_force() -> None:
    seen: list[bool] = []

    class Spy(GaussianMixture):
        def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x, t, cond)

    problem = Problem()
    problem.denoiser = Denoiser(Spy(problem.schedule), problem.schedule)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = problem.loss(Adjoint())
    forward = len(seen)
    loss.backward()
    assert all(seen)
    assert len(seen) > forward


def test_a_weight_shared_by_a_closure_gets_its_gradient() -> None:
    """A plain function as the network: the tensors that it closes over are found."""
    gain = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    denoiser = Denoiser(lambda x, t, cond: gain * x, VPLinear())
    found = [
        torch.autograd.grad(sample(denoiser, noise(), steps=40, solver="rk4", gradient=e).x0.sum(), [gain])[0]
        for e in (Adjoint(), "full")
    ]
    assert float(found[0]) == pytest.approx(float(found[1]), rel=1e-4)


def test_from_data_to_noise() -> None:
    """The same engine on a grid that is walked the other way."""
    problem = Problem()
    found = []
    for engine in (Adjoint(), "full"):
        x_0 = noise().requires_grad_()
        times = {key: problem.settings[key] for key in ("t_start", "t_end")}
        out = to_noise(problem.denoiser, x_0, cond=conditioning(), steps=40, solver="rk4", gradient=engine, **times)
        found.append(torch.autograd.grad(out.x0.square().sum(), [x_0])[0])
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 1e-4


def test_kinks_of_a_discrete_schedule_are_taken_from_the_right_side() -> None:
    """At a node the raw form has two fields, one for each interval: a point of one must not serve the other."""
    discrete = VPDiscrete(torch.cumprod(1 - torch.linspace(1e-3, 0.2, 40, dtype=torch.float64), 0))
    problem = Problem(schedule=discrete, settings={"t_start": None, "t_end": None})
    t = torch.arange(39.0, -1.0, -1.0, dtype=torch.float64)
    grid = Grid(t, discrete.alpha(t), discrete.sigma(t))
    found = errors(*(problem.gradients(e, grid=grid, form="raw", solver="heun") for e in (Adjoint("heun"), "full")))
    assert max(found.values()) < 1e-2, found
    model = GuidedDenoiser(problem.denoiser, problem.cond, torch.zeros_like(problem.cond), 2.0, problem.x_T)
    for form, shared in (("raw", False), ("exponential", True)):
        system = Augmented(make_ode(form, model), *differentiated(model), [False] * 7)  # type: ignore[arg-type]
        point = system.linearize(noise(), grid.t[5], grid.t[4])
        assert point.is_at(grid.t[5], grid.t[4])
        assert point.is_at(grid.t[5], grid.t[6]) is shared
        assert not point.is_at(grid.t[6], grid.t[5])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backward_solver": "rk45"}, "rk45"),
        ({"trajectory": "kept"}, "kept"),
        ({"preset": "released"}, "released"),
        ({"preset": "paper", "backward_solver": "heun"}, "leave them out"),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Adjoint(**settings)


def test_combinations_that_do_not_fit_are_refused_before_any_network_call() -> None:
    problem = Problem()
    problem.denoiser = Denoiser(lambda *_: pytest.fail("the network was called"), problem.schedule)
    with pytest.raises(InvalidInput, match="exponential"):
        problem.sample(Adjoint(preset="paper"), form="raw", guidance=2.0)
    with pytest.raises(InvalidInput, match="dpmpp2m"):
        problem.sample(Adjoint(), form="raw", solver="dpmpp2m", guidance=2.0)
    t_end = torch.tensor(problem.settings["t_end"], dtype=torch.float64, requires_grad=True)
    with pytest.raises(UnreachedGradient, match="exact"):
        problem.sample(Adjoint(), t_end=t_end, guidance=2.0)
