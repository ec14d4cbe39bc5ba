"""The pipeline road on Stable Diffusion: the pipeline's own image, plain backprop's gradient, PyTorch's semantics."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch

import adjointdpm as ad
from adjointdpm.errors import InputWarning, WeightsChanged
from adjointdpm.numerics import LiveTensorMeter
from tests.pipelines import tiny

PROMPTS = ["a red apple", "a blue cat"]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.stable_diffusion()


def noise(rows: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def embedding(seed: int, rows: int = 2) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(rows, tiny.TOKENS, tiny.WIDTH, generator=source).requires_grad_()


def test_the_image_is_the_pipelines_own(pipe: Any) -> None:
    z = noise()
    out = ad.differentiable(pipe)(PROMPTS, latents=z, num_inference_steps=3, guidance_scale=3.0, negative_prompt="dark")
    call = {"latents": z.detach(), "num_inference_steps": 3, "guidance_scale": 3.0, "negative_prompt": ["dark", "dark"]}
    assert torch.equal(out.image, pipe(PROMPTS, **call, output_type="pt").images)
    assert torch.equal(out.latents, pipe(PROMPTS, **call, output_type="latent").images)
    assert torch.equal(out.image_unclamped.clamp(0, 1), out.image)
    assert out.images is out.image
    assert out.image.shape == (2, 3, 16, 16)
    assert bool((out.image_unclamped != out.image).any())  # the clamp has something to do
    assert list(out.pil()[0].getdata()) == list(pipe(PROMPTS, **call).images[0].getdata())


def test_gradients_are_those_of_plain_backprop_to_the_bit(pipe: Any) -> None:
    found: dict[str, dict[str, torch.Tensor]] = {}
    named = {n: p for n, p in pipe.unet.named_parameters() if "attn2" in n or "conv_in" in n}
    with pytest.warns(InputWarning, match="require grad"):
        gen = ad.differentiable(pipe, wrt=("x_T", "cond", "guidance", "unet.*attn2*", "unet.conv_in*", "vae.decoder*"))
    try:
        for engine in ("exact", "full"):
            inputs = {"latents": noise(), "prompt_embeds": embedding(2), "negative_prompt_embeds": embedding(3)}
            inputs["guidance_scale"] = torch.tensor(3.0, requires_grad=True)
            pipe.unet.zero_grad(), pipe.vae.zero_grad()
            out = gen.with_(gradient=engine)(num_inference_steps=3, **inputs)
            (out.image_unclamped.square().mean() + 0.1 * out.latents.sin().mean() + out.image.mean()).backward()
            weights = {n: p.grad.clone() for n, p in named.items()} | {
                n: p.grad.clone() for n, p in pipe.vae.named_parameters() if p.grad is not None
            }
            found[engine] = {n: t.grad for n, t in inputs.items()} | weights
            assert out.stats.nfe == 3
        assert out.stats.vjps == 0
        assert found["exact"].keys() == found["full"].keys()
        assert any("decoder" in name for name in found["exact"])
        for name, grad in found["full"].items():
            assert float(grad.norm()) > 0, name
            assert torch.equal(found["exact"][name], grad), name
    finally:
        tiny.ready(pipe, scale=1.0)


def test_text_encoder_weights_get_their_gradient() -> None:
    pipe = tiny.stable_diffusion()
    weight = next(p for n, p in pipe.text_encoder.named_parameters() if "token_embedding" in n)
    grads = []
    for engine in ("exact", "full"):
        weight.requires_grad_()
        weight.grad = None
        out = ad.differentiable(pipe, gradient=engine)(PROMPTS, seed=0, num_inference_steps=2, guidance_scale=3.0)
        out.image_unclamped.square().mean().backward()
        grads.append(weight.grad.clone())
    assert torch.equal(*grads)
    assert float(grads[0].norm()) > 0


def test_guidance_for_each_image(pipe: Any) -> None:
    gen = ad.differentiable(pipe)
    scales = torch.tensor([2.0, 5.0], requires_grad=True)
    out = gen(PROMPTS, latents=noise(), num_inference_steps=2, guidance_scale=scales)
    for i, scale in enumerate((2.0, 5.0)):
        alone = gen(PROMPTS[i], latents=noise()[i : i + 1].detach(), num_inference_steps=2, guidance_scale=scale)
        torch.testing.assert_close(out.image_unclamped[i : i + 1], alone.image_unclamped)
    out.image_unclamped[1].sum().backward()
    assert scales.grad[0] == 0
    assert scales.grad[1] != 0


def test_seeds_do_not_depend_on_the_batch(pipe: Any) -> None:
    pipe = tiny.stable_diffusion(tiny.ancestral())
    gen = ad.differentiable(pipe)
    call = {"num_inference_steps": 3, "guidance_scale": 3.0}
    both = gen(PROMPTS, seed=7, **call)
    assert both.stats.seeds == [7, 8]
    for i, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(gen(prompt, seed=7 + i, **call).image, both.image[i : i + 1], rtol=1e-4, atol=1e-5)
    swapped = gen(PROMPTS[::-1], seed=[8, 7], **call)
    torch.testing.assert_close(swapped.image.flip(0), both.image, rtol=1e-4, atol=1e-5)
    drawn = gen.prepare_latents(2, 7)
    assert drawn.dtype == torch.float32
    again = gen(PROMPTS, latents=drawn, generator=[_advanced(7), _advanced(8)], **call)
    assert torch.equal(again.image, both.image)


def _advanced(seed: int) -> torch.Generator:
    """A generator that has drawn an image's first noise."""
    source = torch.Generator().manual_seed(seed)
    torch.randn(1, 4, 8, 8, generator=source)
    return source


def test_num_images_per_prompt_and_generator_lists(pipe: Any) -> None:
    gen = ad.differentiable(pipe)
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "num_images_per_prompt": 2}
    sources = [torch.Generator().manual_seed(s) for s in (1, 2, 3, 4)]
    out = gen(PROMPTS, generator=sources, **call)
    assert out.image.shape[0] == 4
    sources = [torch.Generator().manual_seed(s) for s in (1, 2, 3, 4)]
    assert torch.equal(out.image, pipe(PROMPTS, generator=sources, output_type="pt", **call).images)


def test_callbacks_see_and_change_the_latents(pipe: Any) -> None:
    seen = []

    def halve(twin: Any, step: int, time: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, sorted(tensors)))
        return {"latents": tensors["latents"] * 0.5}

    gen, z = ad.differentiable(pipe), noise(1)
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "callback_on_step_end": halve}
    out = gen("a cat", latents=z, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"], **call)
    assert seen == [(0, ["latents", "prompt_embeds"]), (1, ["latents", "prompt_embeds"])]
    plain = pipe("a cat", latents=z.detach(), output_type="latent", **call).images
    assert torch.equal(out.latents, plain)
    out.latents.sum().backward()
    assert float(z.grad.norm()) > 0


def test_semantics_of_torch(pipe: Any) -> None:
    gen, z = ad.differentiable(pipe), noise(1)
    call = {"latents": z, "num_inference_steps": 2, "guidance_scale": 3.0}
    first, second = gen("a cat", **call), gen("a dog", **call)
    gen("a house", **call)  # dropped without backward
    one, two = first.image_unclamped.mean(), second.image_unclamped.mean()
    one.backward(retain_graph=True)
    g1 = z.grad.clone()
    one.backward()
    torch.testing.assert_close(z.grad, 2 * g1)
    two.backward()
    (g2,) = torch.autograd.grad(gen("a dog", **call).image_unclamped.mean(), [z])
    torch.testing.assert_close(z.grad, 2 * g1 + g2)
    with pytest.raises(RuntimeError, match="second time"):
        one.backward()
    with torch.no_grad():
        out = gen("a cat", **call)
    assert not out.image.requires_grad
    assert torch.equal(out.image, first.image)


def state_of(pipe: Any) -> dict[str, Any]:
    """Everything of a pipeline that a run might leave something in."""
    modules = {n: m for n, c in pipe.components.items() if isinstance(c, torch.nn.Module) for n, m in c.named_modules()}
    return {
        "attributes": {name: id(value) for name, value in vars(pipe).items()},
        "class": type(pipe),
        "scheduler": {n: copy.deepcopy(v) for n, v in vars(pipe.scheduler).items() if not torch.is_tensor(v)},
        "methods": {name: sorted(vars(m)) for name, m in modules.items()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in modules.items()},
        "grad": [p.requires_grad for m in modules.values() for p in m.parameters()],
        "training": [m.training for m in modules.values()],
    }


@pytest.mark.parametrize("scheduler", ["multistep", "ancestral"])
def test_nothing_is_left_in_the_pipeline(scheduler: str) -> None:
    pipe = tiny.stable_diffusion(getattr(tiny, scheduler)())
    pipe.unet.requires_grad_(True)
    gen = ad.differentiable(pipe, wrt=("x_T", "unet.*attn2*"))
    before = state_of(pipe)
    z = noise(1)
    out = gen("a cat", latents=z, num_inference_steps=3, guidance_scale=3.0)
    assert str(state_of(pipe)) == str(before)
    out.image_unclamped.mean().backward()
    assert str(state_of(pipe)) == str(before)
    asked = {n for n, p in pipe.unet.named_parameters() if p.grad is not None}
    assert asked == {n for n, _ in pipe.unet.named_parameters() if "attn2" in n}


def test_nothing_is_left_after_an_exception(pipe: Any) -> None:
    def stop(twin: Any, step: int, time: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    before = state_of(pipe)
    with pytest.raises(KeyboardInterrupt):
        ad.differentiable(pipe)("a cat", latents=noise(1), num_inference_steps=3, callback_on_step_end=stop)
    assert str(state_of(pipe)) == str(before)


def test_a_failing_pipeline_gets_its_precision_and_lora_scale_back(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = pipe.unet.conv_in
    monkeypatch.setattr(layer, "scaling", {"style": 1.0}, raising=False)

    def spoil(twin: Any, step: int, time: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        layer.scaling["style"] = 0.3
        pipe.vae.double()
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        ad.differentiable(pipe)("a cat", latents=noise(1), num_inference_steps=2, callback_on_step_end=spoil)
    assert layer.scaling == {"style": 1.0}
    assert pipe.vae.dtype == torch.float32


def test_weights_changed_before_backward_are_noticed() -> None:
    pipe = tiny.stable_diffusion()
    out = ad.differentiable(pipe)("a cat", latents=noise(1), num_inference_steps=2, guidance_scale=3.0)
    pipe.unet.conv_in.weight.data.mul_(1.1)
    with pytest.raises(WeightsChanged):
        out.image_unclamped.mean().backward()


def test_memory_does_not_grow_with_the_steps(pipe: Any) -> None:
    def peak(engine: str, steps: int) -> int:
        gen = ad.differentiable(pipe, gradient=engine)
        with LiveTensorMeter() as meter:
            gen("a cat", latents=noise(1), num_inference_steps=steps).image_unclamped.mean().backward()
        return meter.peak_bytes

    assert peak("full", 6) > 2 * peak("full", 2)
    assert peak("exact", 8) < 1.1 * peak("exact", 2)


def test_a_dropped_result_is_freed(pipe: Any) -> None:
    out = ad.differentiable(pipe)("a cat", latents=noise(1), num_inference_steps=2)
    watched = weakref.ref(out.image_unclamped)
    out.image_unclamped.mean().backward()
    del out
    gc.collect()
    assert watched() is None


def test_statistics(pipe: Any) -> None:
    z = noise(1)
    with LiveTensorMeter() as meter:
        ad.differentiable(pipe)("a cat", latents=z, num_inference_steps=2).image.mean().backward()
    out = ad.differentiable(pipe)("a cat", latents=z, seed=3, num_inference_steps=2, measure=True)
    forward_peak = out.stats.peak_bytes
    assert forward_peak is not None
    assert forward_peak > 0
    assert (out.stats.nfe, out.stats.vjps, out.stats.backward_seconds) == (2, 0, 0.0)
    out.image.mean().backward()
    assert out.stats.vjps == 3  # two denoiser calls, one decoding
    assert out.stats.recomputations == 1  # the graphs of the last denoiser call and of the decoding were there
    assert out.stats.backward_seconds > 0
    assert out.stats.peak_bytes > forward_peak
    assert out.stats.peak_bytes == pytest.approx(meter.peak_bytes, rel=0.05)
    figures = out.stats.as_dict()
    assert figures["scheduler"] == "DDIMScheduler"
    assert figures["seeds"] == [3]
    assert figures["vjps"] == 3


def test_random_numbers_are_not_drawn_again_in_backward() -> None:
    pipe = tiny.stable_diffusion(tiny.ancestral())
    out = ad.differentiable(pipe)("a cat", latents=noise(1), num_inference_steps=3)  # noise from the global generator
    before = torch.get_rng_state()
    out.image_unclamped.mean().backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_double_precision_pipeline() -> None:
    pipe = tiny.stable_diffusion().to(torch.float64)
    z = noise(1)
    out = ad.differentiable(pipe)("a cat", latents=z, num_inference_steps=2, guidance_scale=3.0)
    assert out.image.dtype == torch.float64
    out.image_unclamped.mean().backward()
    assert z.grad.dtype == torch.float32
