"""`memory=` and `branches=` of `differentiable`, on both roads, and a compiled denoiser."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

import adjointdpm as ad
from adjointdpm.errors import InvalidInput
from adjointdpm.numerics import LiveTensorMeter, relative_error
from adjointdpm.replay.budget import parse_memory
from tests.pipelines import tiny

ROADS: list[dict[str, Any]] = [{}, {"solver": "euler"}]


@pytest.fixture(autouse=True)
def keeping_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["adjointdpm.replay.profile"], "_pays", lambda reused, fresh: True)


@pytest.fixture
def pipe() -> Any:
    made = tiny.stable_diffusion()
    for name in ("unet", "vae", "text_encoder"):
        getattr(made, name).requires_grad_(False)
    return made


def noise() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()


def gradient(pipe: Any, **settings: Any) -> tuple[torch.Tensor, Any, int]:
    """Gradient to the noise, the counts of backward, and the peak of live bytes with all weights."""
    z = noise()
    gen = ad.differentiable(pipe, **settings)
    with LiveTensorMeter() as meter:
        out = gen("a red apple", latents=z, num_inference_steps=8, guidance_scale=4.0, negative_prompt="dark")
        (found,) = torch.autograd.grad(out.image_unclamped.square().mean(), z)
    modules = [m for m in pipe.components.values() if isinstance(m, torch.nn.Module)]
    weights = {id(p): p.nbytes for m in modules for p in (*m.parameters(), *m.buffers())}
    return found, out.stats.counts, meter.peak_bytes + sum(weights.values())


@pytest.mark.parametrize("road", ROADS, ids=["pipeline", "ode"])
def test_exact_within_the_budget(pipe: Any, road: dict[str, Any]) -> None:
    want, counts, _ = gradient(pipe, **road)
    few = counts["recomputations"]
    gradient(pipe, memory="1GB", **road)  # measures the networks
    found, counts, most = gradient(pipe, memory="1GB", **road)
    assert torch.equal(found, want)
    assert counts["recomputations"] == 0
    with pytest.raises(InvalidInput, match="is too small") as caught:
        gradient(pipe, memory="1KB", **road)
    least = parse_memory(str(caught.value).split('"')[-2])
    assert least is not None
    for budget in (int(1.1 * least), int((least + most) / 2)):
        found, counts, peak = gradient(pipe, memory=budget, **road)
        assert torch.equal(found, want)
        assert peak <= budget + 150_000  # tables, random states: little beside real networks
        assert 0 < counts["recomputations"] <= few + 1


@pytest.mark.parametrize("road", ROADS, ids=["pipeline", "ode"])
def test_a_budget_that_the_decoder_does_not_fit_is_refused_before_sampling(pipe: Any, road: dict[str, Any]) -> None:
    calls: list[int] = []
    pipe.vae = tiny.vae(width=64).requires_grad_(False)
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    gen = ad.differentiable(pipe, memory="2MB", **road)
    with pytest.raises(InvalidInput, match=r"AutoencoderKL.decode needs .* works here is") as caught:
        gen("a red apple", latents=noise(), num_inference_steps=8)
    assert len(calls) < 8  # the first call, and what measures it
    least = str(caught.value).split('"')[-2]
    out = ad.differentiable(pipe, memory=least, **road)("a red apple", latents=noise(), num_inference_steps=8)
    out.image_unclamped.sum().backward()


@pytest.mark.parametrize("road", ROADS, ids=["pipeline", "ode"])
def test_branches_one_after_the_other(pipe: Any, road: dict[str, Any]) -> None:
    want, _, whole = gradient(pipe, **road)
    found, counts, half = gradient(pipe, branches="sequential", **road)
    assert relative_error(found, want) < 1e-5
    assert half < whole
    assert counts["vjps"] == 2 * 8 + 1


def test_bad_settings(pipe: Any) -> None:
    with pytest.raises(InvalidInput, match="memory="):
        ad.differentiable(pipe, memory="much")
    with pytest.raises(InvalidInput, match='decides how gradient="exact" is computed'):
        ad.differentiable(pipe, memory="1GB", gradient="full")
    with pytest.raises(InvalidInput, match="branches="):
        ad.differentiable(pipe, branches="parallel")
    with pytest.raises(InvalidInput, match="splits calls that are replayed"):
        ad.differentiable(pipe, branches="sequential", gradient="full")
    with pytest.raises(InvalidInput, match="belongs to the ODE road"):
        ad.differentiable(pipe, guidance_interval=(0.1, 2.0))
    with pytest.raises(InvalidInput, match="guidance_interval"):
        ad.differentiable(pipe, solver="euler", guidance_interval=(2.0, 0.1))


def test_guidance_interval_and_rescale_on_the_ode_road(pipe: Any) -> None:
    def image(rescale: float = 0.0, **settings: Any) -> torch.Tensor:
        gen = ad.differentiable(pipe, solver="euler", **settings)
        return gen(
            "a red apple", latents=noise().detach(), num_inference_steps=4, guidance_scale=4.0, guidance_rescale=rescale
        ).image_unclamped

    plain = image()
    assert torch.equal(image(guidance_interval=(0.0, 1e6)), plain)
    assert not torch.allclose(image(guidance_interval=(0.5, 2.0)), plain)
    assert not torch.allclose(image(rescale=0.7), plain)


@pytest.mark.parametrize("road", ROADS, ids=["pipeline", "ode"])
def test_a_compiled_denoiser(pipe: Any, road: dict[str, Any]) -> None:
    """`pipe.unet = torch.compile(pipe.unet)`, as people do; the backend that changes no kernel gives the same bits."""
    want, counts, _ = gradient(pipe, **road)
    pipe.unet = torch.compile(pipe.unet, backend="aot_eager")
    found, again, _ = gradient(pipe, **road)
    assert torch.equal(found, want)
    assert (again["vjps"], again["recomputations"]) == (counts["vjps"], counts["recomputations"])
