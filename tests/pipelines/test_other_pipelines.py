"""Pipelines other than Stable Diffusion, none of them known to the library by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import adjointdpm as ad
from tests.pipelines import tiny

Arguments = dict[str, Any]


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).requires_grad_()


def text(**more: Any) -> Arguments:
    return {"prompt": "a red apple", "latents": leaf(1, 4, 8, 8), "guidance_scale": 3.0, **more}


def masked() -> Arguments:
    ones = torch.ones(1, 6)
    return {
        "prompt_embeds": leaf(1, 6, tiny.WIDTH),
        "negative_prompt_embeds": leaf(1, 6, tiny.WIDTH),
        "prompt_attention_mask": ones,
        "negative_prompt_attention_mask": ones,
        "negative_prompt": None,
        "latents": leaf(1, 4, 8, 8),
        "height": 16,
        "width": 16,
        "use_resolution_binning": False,
    }


def packed() -> Arguments:
    return {
        "prompt_embeds": leaf(1, 6, tiny.WIDTH),
        "pooled_prompt_embeds": leaf(1, tiny.WIDTH),
        "latents": leaf(1, 16, 16),
        "height": 16,
        "width": 16,
    }


CASES: dict[str, tuple[Callable[[], Any], Callable[[], Arguments]]] = {
    "SDXL": (tiny.stable_diffusion_xl, text),
    "DDIM": (tiny.unconditional, lambda: {"latents": leaf(2, 3, 8, 8), "eta": 0.5}),
    "DDPM": (lambda: tiny.unconditional("DDPM"), lambda: {"latents": leaf(1, 3, 8, 8)}),
    "LDM": (tiny.latent_unconditional, lambda: {"latents": leaf(1, 3, 8, 8)}),
    "SD3": (tiny.stable_diffusion_3, lambda: text(height=16, width=16)),
    "Flux": (tiny.flux, packed),
    "PixArt": (tiny.pixart, masked),
    "DiT": (tiny.dit, lambda: {"class_labels": [1], "latents": leaf(1, 4, 8, 8)}),
    "ControlNet": (tiny.controlled, lambda: text(image=leaf(1, 3, 16, 16).sigmoid().detach().requires_grad_())),
}
QUICK = ("SDXL", "DDIM", "LDM", "SD3", "Flux")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.full) for n in CASES])
def test_gradient_is_plain_backprops(name: str) -> None:
    build, arguments = CASES[name]
    pipe = build()
    gen = ad.differentiable(pipe)
    results = []
    for engine in ("exact", "full"):
        call = arguments()
        leaves = {n: t for n, t in call.items() if isinstance(t, torch.Tensor) and t.requires_grad}
        torch.manual_seed(0)
        out = gen.with_(gradient=engine)(num_inference_steps=3, **call)
        out.image_unclamped.square().mean().backward()
        results.append((out, {n: t.grad for n, t in leaves.items()}))
    (out, grads), (_, expected) = results
    for tensor, grad in expected.items():
        assert float(grad.norm()) > 0, tensor
        assert torch.equal(grads[tensor], grad), tensor
    assert out.image.ndim == 4
    assert out.image.shape[1] == 3
    assert torch.equal(out.image_unclamped.clamp(0, 1), out.image)
    assert out.stats.nfe == (6 if name == "ControlNet" else 3)
    assert len(out.pil()) == len(out.image)


@pytest.mark.parametrize("name", ["DDIM", "LDM"])
def test_noise_given_to_a_pipeline_that_draws_its_own(name: str) -> None:
    pipe = CASES[name][0]()
    gen = ad.differentiable(pipe)
    seeded = gen(seed=5, batch_size=2, num_inference_steps=2)
    given = gen(latents=gen.prepare_latents(2, 5), num_inference_steps=2)
    assert torch.equal(seeded.image, given.image)
    source = [torch.Generator().manual_seed(s) for s in (5, 6)]
    plain = pipe(batch_size=2, generator=source, num_inference_steps=2, output_type="np").images
    assert torch.equal(torch.from_numpy(plain), seeded.image.permute(0, 2, 3, 1))


def test_noise_of_packed_latents() -> None:
    gen = ad.differentiable(tiny.flux())
    call = packed()
    del call["latents"]
    drawn = gen.prepare_latents(1, 5, 16, 16)
    assert drawn.shape == (1, 16, 16)
    assert torch.equal(
        gen(latents=drawn, num_inference_steps=1, **call).image, gen(seed=5, num_inference_steps=1, **call).image
    )


def test_pooled_text_of_sdxl_gets_a_gradient() -> None:
    pipe = tiny.stable_diffusion_xl()
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    shapes = ((1, tiny.TOKENS, 2 * tiny.WIDTH),) * 2 + ((1, tiny.WIDTH),) * 2
    for road in ({}, {"solver": "euler"}):
        call = {name: leaf(*shape) for name, shape in zip(names, shapes, strict=True)}
        ad.differentiable(pipe, **road)(
            seed=0, num_inference_steps=2, guidance_scale=3.0, **call
        ).image_unclamped.sum().backward()
        assert all(float(tensor.grad.norm()) > 0 for tensor in call.values())


@pytest.mark.parametrize("road", [{}, {"solver": "euler"}], ids=["pipeline", "ode"])
@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.stable_diffusion_xl])
def test_float16_with_an_autoencoder_that_is_said_to_overflow(make: Callable[[], Any], road: Arguments) -> None:
    """`force_upcast` is the default: SDXL decodes in float32 and casts back, Stable Diffusion does not."""
    pipe = make()
    gradients = []
    for dtype in (torch.float32, torch.float16):
        assert pipe.to(dtype).vae.config.force_upcast
        latents = leaf(1, 4, 8, 8)
        out = ad.differentiable(pipe, wrt="x_T", **road)(
            "a red apple", latents=latents.to(dtype), num_inference_steps=2
        )
        (1000 * out.image_unclamped.float()).mean().backward()
        gradients.append(latents.grad)
    assert pipe.vae.dtype == torch.float16
    assert float(torch.cosine_similarity(*(g.flatten() for g in gradients), dim=0)) > 0.99
