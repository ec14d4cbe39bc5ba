"""Every bad argument of a call: one clear error before the denoiser runs, or a warning that names what is lost."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import adjointdpm as ad
from adjointdpm.errors import InputWarning, InvalidInput, NotDifferentiable
from adjointdpm.pipelines.text import warn_of_losses
from adjointdpm.zoo.build import build_tokenizer
from tests.pipelines import tiny

Z = torch.zeros(1, 4, 8, 8)
E = torch.zeros(1, tiny.TOKENS, tiny.WIDTH)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.stable_diffusion()


@pytest.fixture
def idle(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pipeline with a denoiser that must not be called."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the denoiser ran")

    monkeypatch.setattr(pipe.unet, "forward", never)
    return pipe


BAD: list[tuple[dict[str, Any], str]] = [
    ({"num_inference_steps": 0}, "num_inference_steps=0: expected 1 to 100"),
    ({"num_inference_steps": -3}, "num_inference_steps=-3"),
    ({"num_inference_steps": 101}, "num_inference_steps=101"),
    ({"num_inference_steps": 2.5}, "whole number, got 2.5"),
    ({"num_inference_steps": True}, "whole number, got True"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt=0"),
    ({"latents": Z[:0]}, r"shape \(0, 4, 8, 8\), expected \(1, 4, 8, 8\)"),
    ({"latents": Z.expand(2, -1, -1, -1)}, r"shape \(2, 4, 8, 8\), expected \(1, 4, 8, 8\) for 1 image"),
    ({"latents": torch.zeros(1, 3, 8, 8)}, r"shape \(1, 3, 8, 8\), expected \(1, 4, 8, 8\)"),
    ({"latents": torch.zeros(1, 4, 16, 8)}, "another image size needs height="),
    ({"latents": torch.full_like(Z, float("nan"))}, "latents holds NaN or Inf"),
    ({"latents": torch.full_like(Z, float("inf"))}, r"latents holds NaN or Inf \(256 of 256"),
    ({"latents": Z.long()}, "latents are torch.int64"),
    ({"latents": Z.to(torch.complex64)}, "latents are torch.complex64"),
    ({"latents": [0.0]}, "latents must be a tensor, got list"),
    ({"height": 17}, "height=17: expected a positive multiple of 2"),
    ({"width": -8}, "width=-8"),
    ({"height": 18, "width": 18}, "divisible by 8"),  # the pipeline's own check
    ({"prompt": []}, "prompt is an empty list"),
    ({"prompt": 7}, "prompt must be a string"),
    ({"prompt": ["a", 7]}, "prompt must be a string"),
    ({"prompt": "a\0"}, "NUL"),
    ({"prompt": "\ud800"}, "surrogate"),
    ({"prompt_embeds": E}, "both prompt and prompt_embeds"),
    ({"prompt": None}, "neither prompt nor prompt_embeds"),
    ({"prompt": None, "prompt_embeds": E[:0]}, "the batch is empty"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 8, 24)}, "24 wide, but the denoiser's cross-attention reads 16"),
    ({"prompt": None, "prompt_embeds": E, "negative_prompt_embeds": E[:, :4]}, "differ in shape"),
    ({"prompt": None, "prompt_embeds": E / 0}, "prompt_embeds holds NaN"),
    ({"prompt": None, "prompt_embeds": E.long()}, "prompt_embeds must be a floating-point tensor"),
    ({"negative_prompt": "dark", "negative_prompt_embeds": E}, "both negative_prompt and negative_prompt_embeds"),
    ({"negative_prompt": ["dark", "big"]}, "negative_prompt has 2 entries for 1 prompts"),
    ({"generator": [torch.Generator(), torch.Generator()]}, "2 generators for 1 image"),
    ({"generator": 3}, "generator must be a torch.Generator"),
    ({"seed": 0, "generator": torch.Generator()}, "both seed and generator"),
    ({"seed": [0, 1]}, "2 seeds for 1 image"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": 0.5}, "seed=0.5"),
    ({"guidance_scale": float("nan")}, "guidance_scale=nan: expected finite"),
    ({"guidance_scale": torch.tensor(float("inf"))}, "expected finite"),
    ({"guidance_scale": "high"}, "guidance_scale='high'"),
    ({"guidance_scale": torch.ones(3)}, r"guidance_scale has shape \(3,\): expected \(\), or \(1,\)"),
    ({"guidance_scale": torch.tensor(3)}, "tensor of torch.int64"),
    ({"guidence_scale": 3.0}, "takes no argument 'guidence_scale'; did you mean guidance_scale"),
    ({"output_type": "pil"}, "output_type='pil' is not for this call"),
    ({"return_dict": True}, "a Generated is returned"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_arguments(idle: Any, bad: dict[str, Any], message: str) -> None:
    call = {"prompt": "a cat", "num_inference_steps": 2, **bad}
    for gen in (ad.differentiable(idle), ad.differentiable(idle, solver="ab4")):
        if gen.road == "ode" and message == "divisible by 8":
            continue  # the pipeline's own rule; its U-Net takes any even size
        with pytest.raises(InvalidInput, match=message):
            gen(**call)


def test_guidance_above_one_for_some_images_only(idle: Any) -> None:
    with pytest.raises(InvalidInput, match="above 1 for some images only"):
        ad.differentiable(idle)(["a", "a"], guidance_scale=torch.tensor([1.0, 3.0]), num_inference_steps=2)


def test_inference_tensors(idle: Any) -> None:
    with torch.inference_mode():
        z = torch.zeros(1, 4, 8, 8)
    with pytest.raises(InvalidInput, match="inference_mode"):
        ad.differentiable(idle)("a cat", latents=z, num_inference_steps=2)


@pytest.mark.parametrize("guidance", [1.0, 0.0, -2.0])
def test_negative_prompt_with_guidance_off_warns(pipe: Any, guidance: float) -> None:
    with pytest.warns(InputWarning, match="negative_prompt is ignored"):
        ad.differentiable(pipe)("a cat", negative_prompt="dark", guidance_scale=guidance, num_inference_steps=1)


def test_long_prompts_and_unknown_words_are_named(pipe: Any) -> None:
    gen = ad.differentiable(pipe)
    with pytest.warns(InputWarning, match="longer than the 8 tokens that tokenizer reads; cut: 'house, zebra'"):
        gen("a red apple a blue cat house, zebra", num_inference_steps=1)
    with pytest.warns(InputWarning, match="outside the vocabulary of tokenizer: 'zebra', 'fur'"):
        gen("a red zebra, fur", num_inference_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        gen("a red apple", num_inference_steps=1)


def test_words_are_known_as_the_tokenizer_reads_them() -> None:
    """It drops a comma, but a quote is part of the word."""
    with pytest.warns(InputWarning, match="""outside the vocabulary of tokenizer: "cat'"$"""):
        warn_of_losses(SimpleNamespace(tokenizer=build_tokenizer()), "prompt", ["(A Dog), a cat'"])


def test_a_tokenizer_without_a_limit_takes_the_text_encoders(pipe: Any) -> None:
    pipe = tiny.stable_diffusion()
    pipe.tokenizer.model_max_length = int(1e30)
    out = ad.differentiable(pipe)("a cat", seed=0, num_inference_steps=1)
    assert pipe.tokenizer.model_max_length == int(1e30)
    assert torch.equal(
        out.image, ad.differentiable(tiny.stable_diffusion())("a cat", seed=0, num_inference_steps=1).image
    )


def test_networks_that_cannot_run_are_refused() -> None:
    pipe = tiny.stable_diffusion()
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].ff.net[1] = torch.nn.Dropout(0.1)
    pipe.unet.train()
    with pytest.raises(InvalidInput, match=r"unet.mid_block.*train mode with dropout 0.1.*pipe\.unet\.eval\(\)"):
        ad.differentiable(pipe)
    pipe.unet.eval()
    gen = ad.differentiable(pipe)
    pipe.unet.train()  # later
    with pytest.raises(InvalidInput, match="dropout"):
        gen("a cat", num_inference_steps=1)
    pipe.unet.eval()
    pipe.vae.decoder.add_module("norm", torch.nn.BatchNorm2d(3))
    with pytest.raises(InvalidInput, match="batch norm"):
        ad.differentiable(pipe)


def test_meta_quantised_and_offloaded_weights_are_refused() -> None:
    pipe = tiny.stable_diffusion()
    pipe.unet.conv_in.weight = torch.nn.Parameter(torch.zeros(8, 4, 3, 3, device="meta"), requires_grad=False)
    with pytest.raises(InvalidInput, match=r"unet\.conv_in\.weight is on the meta device"):
        ad.differentiable(pipe)
    pipe = tiny.stable_diffusion()
    pipe.unet.conv_in.weight = torch.nn.Parameter(torch.zeros(8, 4, 3, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InvalidInput, match=r"unet\.conv_in\.weight is quantised \(torch.int8\)"):
        ad.differentiable(pipe)
    pipe = tiny.stable_diffusion()
    pipe.unet._hf_hook = SimpleNamespace(offload=True)
    with pytest.raises(InvalidInput, match="unet is offloaded"):
        ad.differentiable(pipe)


def test_what_is_no_pipeline_or_no_setting(pipe: Any) -> None:
    with pytest.raises(InvalidInput, match="expected a diffusers pipeline, got Linear"):
        ad.differentiable(torch.nn.Linear(1, 1))
    with pytest.raises(InvalidInput, match="the others need an ODE"):
        ad.differentiable(pipe, gradient="adjoint")
    with pytest.raises(InvalidInput, match="spacing='karras' belongs to the ODE road"):
        ad.differentiable(pipe, spacing="karras")
    with pytest.raises(InvalidInput, match="solver='rk5' is unknown"):
        ad.differentiable(pipe, solver="rk5")
    with pytest.raises(InvalidInput, match="unknown settings"):
        ad.differentiable(pipe).with_(engine="full")


def test_a_pipeline_decorated_by_something_else_is_refused(pipe: Any) -> None:
    import functools

    def timed(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return inner

    class Timed(type(pipe)):  # type: ignore[misc]
        __call__ = timed(type(pipe).__call__)

    with pytest.raises(NotDifferentiable, match=r"Timed.__call__ is wrapped by the decorator .*timed"):
        ad.differentiable(tiny.ready(Timed(**pipe.components, requires_safety_checker=False), scale=1.0))


def test_a_pipeline_that_calls_its_parent_under_no_grad_is_refused(pipe: Any) -> None:
    class Child(type(pipe)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    child = tiny.ready(Child(**pipe.components, requires_safety_checker=False), scale=1.0)
    with pytest.raises((NotDifferentiable, InvalidInput), match="Child"):
        ad.differentiable(child)("a cat", latents=Z.clone().requires_grad_(), num_inference_steps=1)
