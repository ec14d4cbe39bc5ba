"""Which tensors get a gradient, which are left alone, and what is said when one cannot be reached."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import adjointdpm as ad
from adjointdpm.errors import InputWarning, InvalidInput, PerformanceWarning, UnreachedGradient
from adjointdpm.numerics import LiveTensorMeter
from tests.pipelines import tiny

CALL: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}


def leaf(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def embeds(seed: int = 2) -> torch.Tensor:
    return leaf(1, tiny.TOKENS, tiny.WIDTH, seed=seed)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.stable_diffusion()


@pytest.mark.parametrize("road", [{}, {"solver": "euler"}], ids=["pipeline", "ode"])
@pytest.mark.parametrize("wrt", [("x_T",), ("cond",), ("guidance",), ("x_T", "guidance")])
def test_wrt_restricts_tensors(pipe: Any, wrt: tuple[str, ...], road: dict[str, Any]) -> None:
    z, e, s = leaf(1, 4, 8, 8), embeds(), torch.tensor(3.0, requires_grad=True)
    gen = ad.differentiable(pipe, wrt=wrt, **road)
    out = gen(latents=z, prompt_embeds=e, negative_prompt_embeds=embeds(3), num_inference_steps=2, guidance_scale=s)
    out.image_unclamped.mean().backward()
    got = {name for name, tensor in (("x_T", z), ("cond", e), ("guidance", s)) if tensor.grad is not None}
    assert got == set(wrt)


@pytest.mark.parametrize("road", [{}, {"solver": "euler"}], ids=["pipeline", "ode"])
def test_only_named_weights_get_a_gradient(road: dict[str, Any]) -> None:
    pipe = tiny.stable_diffusion()
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(True)  # as from_pretrained leaves them
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gen = ad.differentiable(pipe, wrt="unet.*attn2.to_k*", **road)
    gen("a cat", seed=0, **CALL).image_unclamped.mean().backward()
    got = {f"{n}.{key}" for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)
           for key, p in m.named_parameters() if p.grad is not None}  # fmt: skip
    assert got == {n for n, _ in gen.named_parameters()}
    assert got
    assert all("attn2.to_k" in name for name in got)
    assert all(p.requires_grad for p in pipe.unet.parameters())


def test_weights_that_are_not_asked_for_cost_no_memory() -> None:
    pipe = tiny.stable_diffusion()

    def peak() -> int:
        z = leaf(1, 4, 8, 8)
        gen = ad.differentiable(pipe, wrt="x_T")
        with LiveTensorMeter() as meter:
            gen("a cat", latents=z, **CALL).image_unclamped.mean().backward()
        return meter.peak_bytes

    frozen = peak()
    pipe.unet.requires_grad_(True)
    pipe.vae.requires_grad_(True)
    assert peak() <= 1.01 * frozen
    assert all(p.grad is None for p in pipe.unet.parameters())


def test_all_denoiser_weights_and_the_warning_for_them() -> None:
    pipe = tiny.stable_diffusion()
    pipe.unet.requires_grad_(True)
    with pytest.warns(PerformanceWarning, match=r"all \d+ weights of pipe.unet require grad"):
        gen = ad.differentiable(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        ad.differentiable(pipe)
        ad.differentiable(pipe, wrt=("x_T", "weights"))
    gen("a cat", seed=0, **CALL).image_unclamped.mean().backward()
    assert all(p.grad is not None for p in pipe.unet.parameters())
    assert all(p.grad is None for p in pipe.vae.parameters())


def test_frozen_weights_that_are_named_are_unfrozen_and_it_is_said() -> None:
    pipe = tiny.stable_diffusion()
    with pytest.warns(InputWarning, match=r"wrt names \d+ frozen weights \(unet\.conv_in\.weight"):
        gen = ad.differentiable(pipe, wrt="unet.conv_in.*")
    assert {n for n, _ in gen.named_parameters()} == {"unet.conv_in.weight", "unet.conv_in.bias"}
    gen("a cat", seed=0, **CALL).image_unclamped.mean().backward()
    assert pipe.unet.conv_in.weight.grad is not None
    assert not pipe.unet.conv_out.weight.requires_grad


def test_what_requires_grad_later_counts_too(pipe: Any) -> None:
    pipe = tiny.stable_diffusion()
    gen = ad.differentiable(pipe)
    pipe.unet.conv_out.bias.requires_grad_(True)
    gen("a cat", seed=0, **CALL).image_unclamped.mean().backward()
    assert pipe.unet.conv_out.bias.grad is not None


def test_a_pattern_that_matches_nothing_lists_near_names(pipe: Any) -> None:
    with pytest.raises(InvalidInput, match=r"matches no weight; near names: .*unet\.conv_in"):
        ad.differentiable(pipe, wrt="unet.conv_inn.weight")
    with pytest.raises(InvalidInput, match="x_T"):
        ad.differentiable(pipe, wrt=("xT",))
    with pytest.raises(InvalidInput, match="expected names"):
        ad.differentiable(pipe, wrt=())


def test_unreached_weights_raise(pipe: Any) -> None:
    pipe = tiny.stable_diffusion()
    with pytest.raises(UnreachedGradient, match="generation does not run"):
        ad.differentiable(pipe, wrt="vae.encoder.*")
    with pytest.warns(InputWarning):
        gen = ad.differentiable(pipe, wrt="text_encoder.*")
    with pytest.raises(UnreachedGradient, match=r"none of its \d+ weights took part"):
        gen(prompt_embeds=embeds().detach(), negative_prompt_embeds=embeds(3).detach(), **CALL)
    gen("a cat", seed=0, **CALL).image_unclamped.mean().backward()
    assert any(p.grad is not None for p in pipe.text_encoder.parameters())


def test_tensors_that_cannot_be_reached_raise_before_any_work(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the denoiser ran")

    monkeypatch.setattr(pipe.unet, "forward", never)
    gen = ad.differentiable(pipe)
    with pytest.raises(UnreachedGradient, match="negative_prompt_embeds requires grad, but guidance is off"):
        gen(prompt_embeds=embeds(), negative_prompt_embeds=embeds(3), guidance_scale=1.0, num_inference_steps=2)
    with pytest.raises(UnreachedGradient, match="guidance_scale requires grad, but guidance is off"):
        gen("a cat", guidance_scale=torch.tensor(1.0, requires_grad=True), num_inference_steps=2)


def test_a_tensor_that_the_pipeline_ignores_raises(pipe: Any) -> None:
    unused = {"scale": leaf(1)}  # without LoRA layers nothing reads it
    with pytest.raises(UnreachedGradient, match=r"cross_attention_kwargs\['scale'\] requires grad but no gradient"):
        ad.differentiable(pipe)("a cat", cross_attention_kwargs=unused, **CALL)
    ad.differentiable(pipe, wrt="x_T")("a cat", cross_attention_kwargs=unused, **CALL)  # not asked for


def test_the_graph_reaches_through_what_made_the_embedding(pipe: Any) -> None:
    special, base = leaf(1, 2, tiny.WIDTH), embeds().detach()
    prompt = torch.cat([base[:, :-2], special], dim=1)
    ad.differentiable(pipe)(
        prompt_embeds=prompt, negative_prompt_embeds=embeds(3).detach(), **CALL
    ).image_unclamped.mean().backward()
    assert float(special.grad.norm()) > 0
