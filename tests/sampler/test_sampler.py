"""`sample` and `to_noise`: results, statistics, dtypes, callbacks, and every bad input before a network call."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput, NonFinite, UnreachedGradient
from adjointdpm.models import Denoiser
from adjointdpm.sampler import sample, to_noise
from adjointdpm.schedules import EDM, RectifiedFlow, VPCosine, VPDiscrete, VPLinear, make_grid
from tests.support.mixture import GaussianMixture, SingleGaussian, conditioning, noise

VP = VPLinear()


class Never(nn.Module):
    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        raise AssertionError("the network was called before the input was checked")


def test_stats_and_grid() -> None:
    model = Denoiser(GaussianMixture(VP), VP)
    c, u = conditioning(), torch.zeros(1, 3, dtype=torch.float64)
    out = sample(model, noise(), cond=c, uncond=u, guidance=3.0, steps=6, solver="heun")
    assert (out.stats.nfe, out.stats.network_calls, out.stats.sample_evaluations) == (11, 11, 44)
    assert out.stats.seconds > 0
    assert out.grid.steps == 6
    assert out.x0.shape == (2, 2)
    model = Denoiser(GaussianMixture(VP), VP, branches="sequential")
    again = sample(model, noise(), cond=c, uncond=u, guidance=3.0, steps=6, solver="heun")
    assert (again.stats.nfe, again.stats.network_calls, again.stats.sample_evaluations) == (11, 22, 44)
    assert torch.allclose(out.x0, again.x0, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_state(dtype: torch.dtype) -> None:
    model = Denoiser(GaussianMixture(VP), VP)
    out = sample(model, noise().to(dtype), steps=2)
    assert out.x0.dtype == (dtype if dtype.itemsize > 2 else torch.float32)
    assert sample(model, noise().to(dtype), steps=2, state_dtype=torch.float64).x0.dtype == torch.float64


def test_grid_can_be_handed_in() -> None:
    model = Denoiser(GaussianMixture(VP), VP)
    grid = make_grid(VP, 5, "karras", t_end=0.02)
    out = sample(model, noise(), grid=grid)
    assert torch.equal(out.x0, sample(model, noise(), steps=5, spacing="karras", t_end=0.02).x0)
    assert out.grid is grid


def test_callback_sees_every_step() -> None:
    seen: list[tuple[int, float, Tensor]] = []
    x = noise().requires_grad_()
    out = sample(Denoiser(GaussianMixture(VP), VP), x, steps=4, callback=lambda *a: seen.append(a))
    assert [n for n, _, _ in seen] == [1, 2, 3, 4]
    assert seen[-1][1] == 0.0
    assert torch.equal(seen[-1][2], out.x0.detach())
    assert not any(s.requires_grad for _, _, s in seen)


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "ab4", "dpmpp2m"])
def test_to_noise_solves_the_same_ode_upwards(solver: str) -> None:
    net = SingleGaussian(VP)
    model, x = Denoiser(net, VP), noise()
    options: dict[str, Any] = {"solver": solver, "t_start": 0.9, "t_end": 0.01}
    x_0 = sample(model, x, steps=160, to_zero=False, **options).x0
    assert torch.allclose(x_0, net.solution(x, 0.9, 0.01), rtol=0.03, atol=0.02)
    back = to_noise(model, x_0, steps=160, **options)
    assert torch.allclose(
        back.x0, x, atol={"euler": 0.1, "heun": 2e-3, "rk4": 1e-5, "ab4": 5e-3, "dpmpp2m": 5e-3}[solver]
    )
    assert back.grid.t[0] < back.grid.t[-1]


def test_to_noise_is_differentiable() -> None:
    model, x_0 = Denoiser(GaussianMixture(VP), VP), noise().requires_grad_()
    grads = [
        torch.autograd.grad(to_noise(model, x_0, steps=5, solver="ab2", gradient=engine).x0.sin().sum(), x_0)[0]
        for engine in ("exact", "full")
    ]
    assert torch.allclose(*grads, rtol=1e-12)
    assert float(grads[0].norm()) > 0


@pytest.mark.parametrize("kind", ["v", "x0", "flow"])
def test_start_at_alpha_0_in_the_angle_form(kind: Any) -> None:
    for schedule in (VPCosine(), RectifiedFlow()) if kind != "flow" else (RectifiedFlow(),):
        net = SingleGaussian(schedule, kind)
        x = noise()
        out = sample(
            Denoiser(net, schedule, kind), x, steps=60, spacing="uniform", form="angle", solver="rk4", to_zero=False
        )
        assert torch.allclose(out.x0, net.solution(x, 1.0, 1e-3), rtol=1e-3, atol=1e-3)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, "steps"),
    ({"steps": -3}, "steps"),
    ({"steps": 2.5}, "steps"),
    ({"steps": True}, "steps"),
    ({"spacing": "leading"}, "VPDiscrete"),
    ({"spacing": "even"}, "spacing"),
    ({"solver": "rk5"}, "solver"),
    ({"form": "log"}, "form"),
    ({"gradient": "magic"}, "gradient"),
    ({"guidance": 5.0}, "uncond"),
    ({"guidance": torch.ones(3), "uncond": torch.zeros(2, 3)}, "guidance"),
    ({"guidance": math.nan}, "guidance"),
    ({"t_end": 0.0}, "times"),
    ({"t_start": 2.0}, "times"),
    ({"solver": "dpmpp2m", "form": "raw"}, "dpmpp2m"),
    ({"x_T": noise()[:0]}, "B >= 1"),
    ({"x_T": noise()[0]}, "x_T"),
    ({"x_T": noise() * math.nan}, "not finite"),
    ({"x_T": noise().long()}, "floating"),
    ({"x_T": [1.0]}, "floating"),
    ({"state_dtype": torch.int64}, "state_dtype"),
]


@pytest.mark.parametrize(("change", "says"), BAD, ids=[f"{next(iter(c))}-{i}" for i, (c, _) in enumerate(BAD)])
def test_bad_input_before_any_network_call(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        sample(Denoiser(Never(), VP), **{"x_T": noise(), **change})


def test_alpha_0_is_refused_where_it_cannot_work() -> None:
    for schedule in (RectifiedFlow(), VPCosine()):
        with pytest.raises(InvalidInput, match='form="angle"'):
            sample(Denoiser(Never(), schedule, "v"), noise(), spacing="uniform")
        with pytest.raises(InvalidInput, match="smaller t_start"):
            sample(Denoiser(Never(), schedule, "eps"), noise(), spacing="uniform", form="angle")


def test_steps_beyond_the_schedule() -> None:
    schedule = VPDiscrete(torch.cumprod(1 - torch.linspace(1e-3, 0.3, 20, dtype=torch.float64), 0))
    with pytest.raises(InvalidInput, match="beyond the schedule"):
        sample(Denoiser(Never(), schedule), noise(), steps=21, spacing="leading")
    assert sample(Denoiser(GaussianMixture(schedule), schedule), noise(), steps=20, spacing="leading").stats.nfe == 20
    assert sample(Denoiser(GaussianMixture(schedule), schedule), noise(), steps=50).stats.nfe == 50  # times are free


def test_train_mode_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with pytest.raises(InvalidInput, match="eval"):
        sample(Denoiser(lambda x, t, c: net(x), VP), noise())


def test_unreachable_gradients_are_refused() -> None:
    model = Denoiser(Never(), VP)
    with pytest.raises(UnreachedGradient):
        sample(model, noise(), guidance=torch.ones((), requires_grad=True))
    with pytest.raises(UnreachedGradient):
        sample(model, noise(), uncond=torch.zeros(2, 3, requires_grad=True))


def test_a_state_that_is_not_finite_names_the_step() -> None:
    def net(x: Tensor, t: Tensor, cond: None) -> Tensor:
        return x * (math.nan if float(t[0]) < 0.5 else 1.0)

    with pytest.raises(NonFinite, match=r"step 4 of 6 \(t="):
        sample(Denoiser(net, VP), noise(), steps=6, spacing="uniform")


def test_edm_from_large_noise() -> None:
    schedule = EDM()
    net = SingleGaussian(schedule)
    x = 80.0 * noise()
    out = sample(Denoiser(net, schedule), x, steps=20, spacing="karras", solver="heun")
    assert torch.allclose(out.x0, net.solution(x, 80.0, 0.0), rtol=0.02, atol=0.02)
