"""`exact` against `full`: equal bit for bit in everything that can be differentiated, at constant memory and cost.

The promise is 1e-12 (float64) and 1e-5 (float32); with the same kernels in the same order the difference is 0.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adjointdpm.errors import UnreachedGradient, WeightsChanged
from adjointdpm.models import Denoiser
from adjointdpm.numerics import LiveTensorMeter, relative_error
from adjointdpm.sampler import sample
from adjointdpm.schedules import EDM, RectifiedFlow, VPDiscrete, VPLinear
from adjointdpm.solvers import SOLVERS, AdamsBashforth
from tests.support.mixture import GaussianMixture, conditioning, metric, noise

VP = VPLinear()
EMPTY = torch.zeros(2, 3, dtype=torch.float64)


class Problem:
    """A guided solve with everything differentiable requiring grad."""

    def __init__(self, prediction: Any = "eps", *, schedule: Any = VP, tree: bool = False, dtype: Any = torch.float64):
        self.net = GaussianMixture(schedule, prediction).to(dtype)
        self.schedule, self.prediction = schedule, prediction
        self.x = (noise() * (80.0 if isinstance(schedule, EDM) else 1.0)).to(dtype).requires_grad_()
        self.cond: Any = conditioning().to(dtype).requires_grad_()
        self.uncond: Any = EMPTY.to(dtype).clone().requires_grad_()
        self.inputs = [self.cond, self.uncond]
        if tree:
            pooled = [conditioning(seed=s).to(dtype).requires_grad_() for s in (5, 6)]
            self.inputs += pooled
            self.cond = {"text": self.cond, "pooled": pooled[0]}
            self.uncond = {"text": self.uncond, "pooled": pooled[1]}
        self.guidance = torch.tensor([1.5, 3.0], dtype=dtype, requires_grad=True)

    def solve(self, gradient: str, **options: Any) -> Any:
        branches = options.pop("branches", "batched")
        denoiser = Denoiser(self.net, self.schedule, self.prediction, branches=branches)
        return sample(
            denoiser, self.x, cond=self.cond, uncond=self.uncond, guidance=self.guidance, gradient=gradient, **options
        )

    def wrt(self) -> list[Tensor]:
        return [self.x, *self.inputs, self.guidance, *self.net.parameters()]

    def gradients(self, gradient: str, **options: Any) -> list[Tensor]:
        loss = metric(self.solve(gradient, **options).x0)
        grads = torch.autograd.grad(loss, self.wrt(), allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for g, w in zip(grads, self.wrt(), strict=True)]

    def difference(self, **options: Any) -> float:
        exact, full = self.gradients("exact", **options), self.gradients("full", **options)
        assert all(bool(torch.isfinite(g).all()) for g in exact)
        assert sum(float(g.norm()) > 0 for g in full) >= 6
        return max(relative_error(a, b) for a, b in zip(exact, full, strict=True) if float(b.norm()) > 0)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "flow"])
@pytest.mark.parametrize("solver", [n for n in SOLVERS if n not in ("ddim", "ab1")])
def test_equals_full(solver: str, prediction: str) -> None:
    schedule = RectifiedFlow(t_start=0.98) if prediction == "flow" else VP
    assert Problem(prediction, schedule=schedule).difference(solver=solver, steps=4) == 0


@pytest.mark.parametrize("form", ["raw", "exponential", "angle"])
@pytest.mark.parametrize("to_zero", [True, False])
def test_equals_full_in_every_form(form: str, to_zero: bool) -> None:
    schedule = VPDiscrete(torch.cumprod(1 - torch.linspace(1e-3, 0.3, 20, dtype=torch.float64), 0))
    assert Problem("v", schedule=schedule).difference(form=form, solver="heun", steps=4, to_zero=to_zero) == 0


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "flow"])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("to_zero", [True, False])
def test_one_and_two_steps(steps: int, prediction: str, to_zero: bool) -> None:
    schedule = RectifiedFlow(t_start=0.98) if prediction == "flow" else VP
    for solver in ("euler", "rk4", "ab4", "dpmpp2m", AdamsBashforth(4, "rk4")):
        problem = Problem(prediction, schedule=schedule)
        assert problem.difference(solver=solver, steps=steps, to_zero=to_zero) == 0


@pytest.mark.parametrize("prediction", ["v", "x0", "flow"])
def test_one_step_from_alpha_0_to_sigma_0(prediction: str) -> None:
    problem = Problem(prediction, schedule=RectifiedFlow())
    options: dict[str, Any] = {"form": "angle", "spacing": "uniform"}
    assert problem.difference(steps=1, **options) == 0
    assert problem.difference(steps=3, solver="ab3", **options) == 0


def test_trees_and_sequential_branches() -> None:
    problem = Problem(tree=True)
    assert problem.difference(steps=3, solver="ab2", branches="sequential") == 0
    batched, sequential = (problem.gradients("exact", steps=3, branches=b) for b in ("batched", "sequential"))
    assert max(relative_error(a, b) for a, b in zip(batched, sequential, strict=True)) < 1e-12


def test_float32() -> None:
    assert Problem(dtype=torch.float32).difference(steps=20, solver="ab4") == 0


def test_edm() -> None:
    assert Problem(schedule=EDM()).difference(steps=4, spacing="karras", solver="heun") == 0


@pytest.mark.parametrize("chosen", ["x_T", "cond", "guidance", "weights"])
def test_one_at_a_time(chosen: str) -> None:
    problem = Problem()
    everything = dict(zip(["x_T", "cond", "uncond", "guidance"], problem.gradients("exact", steps=3)[:4], strict=False))
    for tensor in problem.wrt():
        tensor.requires_grad_(False)
    target = {"x_T": problem.x, "cond": problem.cond, "guidance": problem.guidance, "weights": problem.net.means}[
        chosen
    ]
    target.requires_grad_()
    out = problem.solve("exact", steps=3).x0
    (alone,) = torch.autograd.grad(metric(out), target)
    expected = everything.get(chosen)
    if expected is None:
        (expected,) = torch.autograd.grad(metric(problem.solve("full", steps=3).x0), target)
    assert relative_error(alone, expected) == 0


TIMES = [("uniform", "rk4", "raw"), ("logsnr", "ab3", "exponential"), ("karras", "dpmpp2m", "exponential")]


@pytest.mark.parametrize(("spacing", "solver", "form"), [*TIMES, ("quadratic", "heun", "angle")])
def test_times_carry_gradients(spacing: Any, solver: str, form: Any) -> None:
    """The grid, the clock's inverse and the Adams weights are tensors all the way: d/dt_end is that of the sampler."""
    schedule = VPDiscrete(torch.cumprod(1 - torch.linspace(1e-3, 0.3, 20, dtype=torch.float64), 0))
    model = Denoiser(GaussianMixture(schedule), schedule)

    def loss(t_end: Tensor, engine: str = "full") -> Tensor:
        options: dict[str, Any] = {"steps": 4, "spacing": spacing, "solver": solver, "form": form}
        return metric(sample(model, noise(), t_end=t_end, gradient=engine, **options).x0)

    t_end = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    exact, full = (torch.autograd.grad(loss(t_end, engine), t_end)[0] for engine in ("exact", "full"))
    assert relative_error(exact, full) < 1e-12
    step = 1e-6
    with torch.no_grad():
        slope = (loss(t_end + step) - loss(t_end - step)) / (2 * step)
    assert float(exact) == pytest.approx(float(slope), rel=1e-6)


def test_weights_that_are_not_used_get_no_gradient() -> None:
    used, unused = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()
    model = Denoiser(lambda x, t, c: used(x), VP, modules=(unused,))
    for engine in ("exact", "full"):
        loss = metric(sample(model, noise(), steps=2, gradient=engine).x0)
        grads = torch.autograd.grad(loss, (used.weight, unused.weight), allow_unused=True)
        assert grads[0] is not None
        assert grads[1] is None


def test_nothing_requires_grad() -> None:
    problem = Problem()
    for tensor in problem.wrt():
        tensor.requires_grad_(False)
    out = problem.solve("exact", steps=3).x0
    assert not out.requires_grad
    assert torch.equal(out, problem.solve("full", steps=3).x0)


def test_behaves_as_autograd_does() -> None:
    problem = Problem()
    first, second = problem.solve("exact", steps=3), problem.solve("exact", steps=2)  # two results alive
    metric(problem.solve("exact", steps=2).x0)  # and one dropped
    (kept,) = torch.autograd.grad(metric(first.x0), problem.x, retain_graph=True)
    (other,) = torch.autograd.grad(metric(second.x0), problem.x)
    (again,) = torch.autograd.grad(metric(first.x0), problem.x)
    assert torch.equal(kept, again)
    assert not torch.equal(kept, other)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(metric(first.x0), problem.x)
    for _ in range(2):
        metric(problem.solve("exact", steps=3).x0).backward()
    assert torch.allclose(problem.x.grad, 2 * kept, rtol=1e-12)  # type: ignore[arg-type]


def test_weights_changed_in_between() -> None:
    problem = Problem()
    loss = metric(problem.solve("exact", steps=3).x0)
    with torch.no_grad():
        problem.net.means.add_(1.0)
    with pytest.raises(WeightsChanged):
        loss.backward()


def test_a_learnt_tensor_that_the_library_cannot_see_raises() -> None:
    class Box:
        __slots__ = ("value",)

    box = Box()
    box.value = torch.ones(1, dtype=torch.float64, requires_grad=True)
    hidden = {"deep": [[[[box]]]]}

    def net(x: Tensor, t: Tensor, cond: None) -> Tensor:
        return x * hidden["deep"][0][0][0][0].value

    with pytest.raises(UnreachedGradient):
        sample(Denoiser(net, VP), noise().requires_grad_(), steps=3)[0].sum().backward()


def test_a_learnt_tensor_in_a_closure_gets_its_gradient() -> None:
    gain = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def net(x: Tensor, t: Tensor, cond: None) -> Tensor:
        return (x * gain).tanh()

    grads = [
        torch.autograd.grad(metric(sample(Denoiser(net, VP), noise(), steps=3, gradient=engine).x0), gain)[0]
        for engine in ("exact", "full")
    ]
    assert relative_error(*grads) == 0


@pytest.mark.parametrize("branches", ["batched", "sequential"])
def test_cost_is_one_replay_per_call(branches: str) -> None:
    problem = Problem()
    out = problem.solve("exact", steps=5, solver="heun", branches=branches)
    calls = 9 * (1 if branches == "batched" else 2)
    assert out.stats.network_calls == calls
    metric(out.x0).backward()
    cost = out.stats.backward()
    assert cost["vjps"] == calls
    assert cost["recomputations"] == calls - 1  # the graph of the last call stayed alive


class Wide(nn.Module):
    """A network whose graph is large beside its state (4000 times; a UNet's is 6000 times its latents)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 512), nn.Linear(512, 2)
        self.hidden = nn.ModuleList(nn.Linear(512, 512) for _ in range(8))

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        x = self.first(x)
        for layer in self.hidden:
            x = torch.nn.functional.silu(layer(x))
        out: Tensor = self.last(x)
        return out


@pytest.mark.parametrize("solver", ["euler", "ab4", "dpmpp2m", "heun"])
def test_peak_memory_is_flat_in_the_steps(solver: str) -> None:
    net = Wide().requires_grad_(False)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def peak(steps: int, engine: str) -> int:
        with LiveTensorMeter() as meter:
            out = sample(Denoiser(net, VP), x, steps=steps, solver=solver, gradient=engine).x0
            torch.autograd.grad(out.square().sum(), x)
        return meter.peak_bytes

    assert peak(80, "exact") <= 1.1 * peak(10, "exact")
    assert peak(10, "full") > 4 * peak(10, "exact")
