"""The ODE road of a diffusers folder: same call, same result object, every solver; and where the two roads differ."""

from __future__ import annotations

from typing import Any

import diffusers as d
import pytest
import torch

import adjointdpm as ad
from adjointdpm.errors import InvalidInput, UnreachedGradient
from adjointdpm.gradients.adjoint import Adjoint
from adjointdpm.numerics import relative_error
from tests.pipelines import tiny


def noise(rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.stable_diffusion()


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize(
    ("scheduler", "settings"),
    [
        (d.DDIMScheduler, {"solver": "euler", "spacing": "trailing"}),
        (d.DPMSolverMultistepScheduler, {"solver": "dpmpp2m", "spacing": "trailing"}),
    ],
)
def test_the_two_roads_agree_where_they_must(scheduler: Any, settings: dict[str, Any], guidance: float) -> None:
    config = {"num_train_timesteps": 100, "timestep_spacing": "trailing", "steps_offset": 1}
    steps = 16 if scheduler is d.DPMSolverMultistepScheduler else 4
    config |= {"clip_sample": False} if scheduler is d.DDIMScheduler else {}
    pipe = tiny.stable_diffusion(scheduler(**config))
    call = {"latents": noise(), "num_inference_steps": steps, "guidance_scale": guidance, "negative_prompt": "dark"}
    call |= {"negative_prompt": None} if guidance == 1 else {}
    one = ad.differentiable(pipe)("a red apple", **call)
    two = ad.differentiable(pipe, **settings)("a red apple", **call)
    assert relative_error(two.latents, one.latents) < 2e-5
    torch.testing.assert_close(two.image, one.image, rtol=0, atol=2e-5)
    grads = [torch.autograd.grad(out.image_unclamped.square().mean(), [call["latents"]])[0] for out in (one, two)]
    assert relative_error(grads[1], grads[0]) < 1e-4


def test_guidance_of_one_and_below_means_other_things_on_the_two_roads(pipe: Any) -> None:
    config = {"num_train_timesteps": 100, "timestep_spacing": "trailing", "steps_offset": 1, "clip_sample": False}
    pipe = tiny.stable_diffusion(d.DDIMScheduler(**config))
    pipeline, ode = ad.differentiable(pipe), ad.differentiable(pipe, solver="euler", spacing="trailing")
    call = {"latents": noise().detach(), "num_inference_steps": 2}

    def image(gen: Any, guidance: float, prompt: str = "a red apple") -> torch.Tensor:
        return gen(prompt, guidance_scale=guidance, **call).image

    close = {"rtol": 0.0, "atol": 2e-5}
    torch.testing.assert_close(image(pipeline, 1.0), image(ode, 1.0), **close)
    torch.testing.assert_close(image(pipeline, 0.0), image(pipeline, 1.0))  # a pipeline: guidance is off
    torch.testing.assert_close(image(ode, 0.0), image(ode, 1.0, prompt=""), **close)  # the formula: unconditional
    assert not torch.allclose(image(ode, 0.0), image(ode, 1.0), atol=1e-3)
    assert not torch.allclose(image(ode, 0.5), image(ode, 1.0), atol=1e-4)


@pytest.mark.parametrize("solver", ["euler", "heun", "ab4", "dpmpp2m"])
def test_exact_is_plain_backprop(pipe: Any, solver: str) -> None:
    found = {}
    for engine in ("exact", "full"):
        embeds = [torch.randn(2, tiny.TOKENS, tiny.WIDTH, generator=torch.Generator().manual_seed(s)) for s in (2, 3)]
        leaves = {"latents": noise(2), "guidance_scale": torch.tensor([2.0, 3.0], requires_grad=True)}
        leaves |= {"prompt_embeds": embeds[0].requires_grad_(), "negative_prompt_embeds": embeds[1].requires_grad_()}
        out = ad.differentiable(pipe, solver=solver, gradient=engine)(num_inference_steps=3, **leaves)
        out.image_unclamped.square().mean().backward()
        found[engine] = {name: tensor.grad for name, tensor in leaves.items()}
        assert out.stats.road == "ode"
    for name, grad in found["full"].items():
        assert relative_error(found["exact"][name], grad) < 1e-6, name
        assert float(grad.norm()) > 0
    counted = ad.differentiable(pipe, solver=solver)(
        "a cat", latents=noise(), num_inference_steps=3, guidance_scale=3.0
    )
    counted.image.mean().backward()
    assert counted.stats.vjps == counted.stats.nfe + 1  # and the decoding


def test_the_adjoint_of_the_paper(pipe: Any) -> None:
    z, grads = noise(), []
    for engine in (Adjoint(), "adjoint", "full"):
        gen = ad.differentiable(pipe, solver="rk4", spacing="logsnr", gradient=engine)
        out = gen("a red apple", latents=z, num_inference_steps=6, guidance_scale=1.5)
        grads.append(torch.autograd.grad(out.image_unclamped.square().mean(), [z])[0])
    assert torch.equal(grads[0], grads[1])
    assert 0 < relative_error(grads[0], grads[2]) < 0.1


def test_weights_and_text_encoder(pipe: Any) -> None:
    pipe = tiny.stable_diffusion()
    pipe.unet.requires_grad_(True)
    pipe.text_encoder.requires_grad_(True)
    gen = ad.differentiable(pipe, wrt=("unet.conv_in.*", "text_encoder.*"), solver="euler")
    grads = []
    for engine in ("exact", "full"):
        pipe.unet.zero_grad(), pipe.text_encoder.zero_grad()
        gen.with_(gradient=engine)(
            "a cat", seed=0, num_inference_steps=2, guidance_scale=3.0
        ).image_unclamped.mean().backward()
        grads.append({n: p.grad.clone() for n, p in gen.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert any(n.startswith("text_encoder") for n in grads[0])
    assert all(relative_error(grads[0][n], grads[1][n]) < 1e-5 for n in grads[0])
    assert {n for n, p in pipe.unet.named_parameters() if p.grad is not None} == {"conv_in.weight", "conv_in.bias"}


def test_seeds_batches_callbacks(pipe: Any) -> None:
    gen, seen = ad.differentiable(pipe, solver="ab2"), []

    def watch(_pipe: Any, step: int, time: float, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append((step, tensors["latents"].requires_grad))
        return tensors

    call = {"num_inference_steps": 2, "guidance_scale": 3.0}
    out = gen(["a cat", "a dog"], seed=3, callback_on_step_end=watch, num_images_per_prompt=2, **call)
    assert seen == [(0, False), (1, False)]
    assert out.image.shape[0] == 4
    torch.testing.assert_close(out.image[3:], gen("a dog", seed=6, **call).image, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInput, match="not replace them"):
        gen("a cat", callback_on_step_end=lambda *a: {"latents": a[3]["latents"] * 0}, **call)


def test_flow_matching_pipeline() -> None:
    pipe = tiny.stable_diffusion_3()
    call = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 16, "width": 16}
    z = noise()
    one = ad.differentiable(pipe)("a red apple", latents=z, **call)
    two = ad.differentiable(pipe, solver="euler")("a red apple", latents=z, **call)
    assert two.image.shape == one.image.shape
    grads = [torch.autograd.grad(out.image_unclamped.square().mean(), [z])[0] for out in (one, two)]
    assert all(float(g.norm()) > 0 for g in grads)


def test_pixel_space_pipeline() -> None:
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = ad.differentiable(tiny.unconditional(), solver="ab4")(latents=z, num_inference_steps=3)
    assert out.image.shape == (2, 3, 8, 8)
    out.image_unclamped.mean().backward()
    assert float(z.grad.norm()) > 0


def test_what_the_ode_road_refuses(pipe: Any) -> None:
    with pytest.raises(InvalidInput, match="does not read eta"):
        ad.differentiable(pipe, solver="euler")("a cat", eta=1.0, num_inference_steps=1)
    with pytest.raises(InvalidInput, match="does not know how FluxPipeline calls its FluxTransformer2DModel"):
        ad.differentiable(tiny.flux(), solver="euler")
    with pytest.raises(InvalidInput, match="StableDiffusionControlNetPipeline"):
        ad.differentiable(tiny.controlled(), solver="euler")
    with pytest.raises(InvalidInput, match="clip_sample"):
        ad.differentiable(tiny.unconditional(clip_sample=True), solver="euler")
    negative = torch.zeros(1, tiny.TOKENS, tiny.WIDTH, requires_grad=True)
    with pytest.raises(UnreachedGradient, match="negative_prompt_embeds"):
        ad.differentiable(pipe, solver="euler")(
            prompt_embeds=negative.detach(), negative_prompt_embeds=negative, guidance_scale=1.0, num_inference_steps=1
        )
