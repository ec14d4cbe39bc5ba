"""Everything that can be wrong with a call, found before any network runs.

diffusers lets many of these through to a bare reshape error, a division by zero, or an image of NaNs.
"""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.pipelines.components import autoencoder_of, denoisers_of
from adjointdpm.pipelines.private import schedulers_of
from adjointdpm.pipelines.text import as_prompts, warn_of_losses

__all__ = ["Call", "check_call", "guidance_argument", "latent_shape"]

OWNED = {
    "output_type": "the image stays a tensor; use .pil() for pictures and .latents for latents",
    "return_dict": "a Generated is returned",
}
LEGACY = ("callback", "callback_steps")


@dataclass(frozen=True)
class Call:
    """A checked call: what goes to the pipeline and what follows from it."""

    arguments: dict[str, Any]
    parameters: Mapping[str, inspect.Parameter]
    batch: int
    steps: int | None
    guided: bool


def check_call(pipe: Any, function: Any, arguments: dict[str, Any], any_guidance: bool = False) -> Call:
    """Check the arguments of a call of a pipeline and count its images.

    Args:
        pipe: the pipeline.
        function: its `__call__`; tells which arguments there are.
        arguments: the user's, by name; None means not given.
        any_guidance: the ODE road's rule, guidance is off at 1 only; pipelines switch it off at 1 and below.

    Raises:
        InvalidInput: names the argument, what it was and what was expected.
    """
    parameters = inspect.signature(function).parameters
    given = {name: value for name, value in arguments.items() if value is not None}
    _check_names(pipe, parameters, given)
    steps = _check_steps(pipe, arguments.get("num_inference_steps", _default(parameters, "num_inference_steps")))
    batch = _count_images(pipe, parameters, given)
    guidance = given.get("guidance_scale", _default(parameters, "guidance_scale"))
    guided = _check_guidance(guidance, batch, any_guidance)
    _check_size(pipe, given)
    _check_tensors(pipe, given, batch)
    _check_embeddings(pipe, given)
    _check_generators(given, batch)
    if not guided and given.get("negative_prompt") is not None and "guidance_scale" in parameters:
        warnings.warn(
            f"negative_prompt is ignored: guidance is off at guidance_scale={_shown(guidance)}",
            InputWarning,
            stacklevel=4,
        )
    for name in ("prompt", "negative_prompt"):
        if given.get(name) is not None and (name == "prompt" or guided):
            warn_of_losses(pipe, name, as_prompts(name, given[name]))
    # None where the pipeline's default is another value is the user's choice, not "not given"
    chosen = {
        name: value for name, value in arguments.items() if value is not None or _default(parameters, name) is not None
    }
    negative = chosen.get("negative_prompt")
    if negative is not None:  # a pipeline wants it in the prompt's own type and number
        texts = as_prompts("negative_prompt", negative)
        rows = 1 if isinstance(chosen.get("prompt"), str) else batch // int(given.get("num_images_per_prompt", 1))
        chosen["negative_prompt"] = texts[0] if isinstance(chosen.get("prompt"), str) else texts * (rows // len(texts))
    if "batch_size" in parameters and "prompt" not in parameters:
        chosen["batch_size"] = batch
    return Call(chosen, parameters, batch, steps, guided)


def _default(parameters: Mapping[str, inspect.Parameter], name: str) -> Any:
    found = parameters.get(name)
    return None if found is None or found.default is inspect.Parameter.empty else found.default


def _shown(value: Any) -> str:
    return str(value.tolist()) if isinstance(value, torch.Tensor) else repr(value)


def _check_names(pipe: Any, parameters: Mapping[str, inspect.Parameter], given: dict[str, Any]) -> None:
    known = [
        name for name in parameters if name != "self" and parameters[name].kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for name in given:
        if name in OWNED:
            raise InvalidInput(f"{name}={given[name]!r} is not for this call: {OWNED[name]}")
        takes_latents = name == "latents"  # a pipeline that draws its noise itself can be handed it too
        if name not in known and not takes_latents and not (name in LEGACY and "kwargs" in parameters):
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f"; did you mean {', '.join(near)}?" if near else f"; it takes {', '.join(known)}"
            raise InvalidInput(f"{type(pipe).__name__} takes no argument {name!r}{hint}")


def _check_steps(pipe: Any, steps: Any) -> int | None:
    if steps is None:
        return None
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise InvalidInput(f"num_inference_steps must be a whole number, got {steps!r}")
    limits = [getattr(s.config, "num_train_timesteps", None) for s in schedulers_of(pipe).values()]
    most = min((n for n in limits if isinstance(n, int)), default=None)
    if steps < 1 or (most is not None and steps > most):
        raise InvalidInput(f"num_inference_steps={steps}: expected 1 to {most or 'as many as the schedule has'}")
    return steps


def _count_images(pipe: Any, parameters: Mapping[str, inspect.Parameter], given: dict[str, Any]) -> int:
    for name in ("batch_size", "num_images_per_prompt", "num_images"):
        value = given.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InvalidInput(f"{name}={value!r}: expected a whole number of at least 1")
    each = given.get("num_images_per_prompt", 1)
    prompt, embeds = given.get("prompt"), given.get("prompt_embeds")
    if "prompt" in parameters and "prompt_embeds" in parameters:
        if prompt is not None and embeds is not None:
            raise InvalidInput("both prompt and prompt_embeds are given: expected one of them")
        if prompt is None and embeds is None:
            raise InvalidInput("neither prompt nor prompt_embeds is given: expected one of them")
    if prompt is not None:
        count = len(as_prompts("prompt", prompt))
    elif isinstance(embeds, torch.Tensor):
        count = embeds.shape[0]
    elif isinstance(given.get("class_labels"), (list, torch.Tensor)):
        count = len(given["class_labels"])
    elif "batch_size" in given:
        count = given["batch_size"]
    elif isinstance(given.get("latents"), torch.Tensor) and "prompt" not in parameters:
        count = given["latents"].shape[0]
    else:
        count = 1
    negative = given.get("negative_prompt")
    if negative is not None:
        found = len(as_prompts("negative_prompt", negative))
        if found not in (1, count) or (isinstance(negative, list) and found != count):
            raise InvalidInput(f"negative_prompt has {found} entries for {count} prompts: expected a string or {count}")
    if count < 1:
        raise InvalidInput("the batch is empty (prompt_embeds has 0 rows): expected at least one")
    return int(count) * int(each)


def _check_guidance(guidance: Any, batch: int, any_guidance: bool) -> bool:
    if guidance is None:
        return True
    values = guidance.detach().flatten().tolist() if isinstance(guidance, torch.Tensor) else [guidance]
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        raise InvalidInput(f"guidance_scale={_shown(guidance)}: expected finite numbers")
    if isinstance(guidance, torch.Tensor):
        if not guidance.is_floating_point():
            raise InvalidInput(f"guidance_scale is a tensor of {guidance.dtype}: expected a floating-point one")
        if guidance.ndim > 0 and tuple(guidance.shape) not in {(1,), (batch,)}:
            raise InvalidInput(
                f"guidance_scale has shape {tuple(guidance.shape)}: expected (), or ({batch},) for one each"
            )
    return any(v > 1 or (any_guidance and v != 1) for v in values)


def guidance_argument(guidance: Any, ndim: int, dtype: torch.dtype) -> Any:
    """The guidance scale as a pipeline can take it: a number, or a tensor shaped to multiply the latents.

    Pipelines switch guidance on by `guidance_scale > 1` and multiply by it; one that requires grad passes through both.

    Raises:
        InvalidInput: some images are to be guided (> 1) and others not.
    """
    if not isinstance(guidance, torch.Tensor):
        return guidance
    if guidance.numel() == 1:
        return guidance.reshape(()).to(dtype)
    on = [v > 1 for v in guidance.detach().tolist()]
    if any(on) and not all(on):
        raise InvalidInput(
            f"guidance_scale={_shown(guidance)} is above 1 for some images only, but a pipeline switches guidance on "
            "for all or none; call it twice, or use the ODE road (solver=…), which takes any values"
        )
    return guidance.to(dtype).reshape(-1, *[1] * (ndim - 1)).as_subclass(PerSample)


class PerSample(torch.Tensor):
    """A guidance scale for each image: compares as one number (on for all or none), multiplies as a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __gt__(self, other: Any) -> bool:  # type: ignore[override]
        return bool((self.as_subclass(torch.Tensor).detach() > other).all())


def latent_shape(pipe: Any, batch: int, height: int | None = None, width: int | None = None) -> tuple[int, ...] | None:
    """(B, C, h, w) of the noise that the pipeline starts from; None where it is not that simple (packed, video)."""
    denoiser = next(iter(denoisers_of(pipe).values()), None)
    config = getattr(denoiser, "config", None)
    channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
    vae = autoencoder_of(pipe)
    latent_channels = getattr(getattr(vae, "config", None), "latent_channels", channels)
    if not isinstance(channels, int) or channels != latent_channels or size is None or hasattr(pipe, "_pack_latents"):
        return None
    if hasattr(pipe, "video_processor") or (
        (height or width) and vae is not None and not hasattr(pipe, "vae_scale_factor")
    ):
        return None
    factor = int(getattr(pipe, "vae_scale_factor", 1)) if vae is not None else 1
    rows, columns = (size, size) if isinstance(size, int) else tuple(size)
    return batch, channels, height // factor if height else int(rows), width // factor if width else int(columns)


def _check_size(pipe: Any, given: dict[str, Any]) -> None:
    factor = int(getattr(pipe, "vae_scale_factor", 1) or 1)
    for name in ("height", "width"):
        value = given.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value % factor:
            raise InvalidInput(f"{name}={value!r}: expected a positive multiple of {factor}, the autoencoder's factor")


def _check_tensors(pipe: Any, given: dict[str, Any], batch: int) -> None:
    for name, value in given.items():
        if not isinstance(value, torch.Tensor) or name == "guidance_scale":
            continue
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InvalidInput(
                f"{name} holds NaN or Inf ({int((~torch.isfinite(value)).sum())} of {value.numel()} values)"
            )
        if value.is_inference():
            raise InvalidInput(
                f"{name} was made in torch.inference_mode(), where no gradient can pass: use {name}.clone()"
            )
    latents = given.get("latents")
    if latents is None:
        return
    if not isinstance(latents, torch.Tensor):
        raise InvalidInput(f"latents must be a tensor, got {type(latents).__name__}")
    if not latents.is_floating_point():
        raise InvalidInput(f"latents are {latents.dtype}: expected a floating-point tensor")
    shape = latent_shape(pipe, batch, given.get("height"), given.get("width"))
    if shape is not None and tuple(latents.shape) != shape:
        raise InvalidInput(
            f"latents have shape {tuple(latents.shape)}, expected {shape} for {batch} image(s)"
            + ("" if given.get("height") else "; another image size needs height= and width=")
        )
    if latents.shape[:1] != (batch,):
        raise InvalidInput(f"latents have {tuple(latents.shape)[:1]} rows for {batch} image(s)")


def _check_embeddings(pipe: Any, given: dict[str, Any]) -> None:
    positive, negative = given.get("prompt_embeds"), given.get("negative_prompt_embeds")
    width = _cross_attention_width(pipe)
    for name, value in (("prompt_embeds", positive), ("negative_prompt_embeds", negative)):
        if value is None or isinstance(value, list):
            continue
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise InvalidInput(
                f"{name} must be a floating-point tensor, got {getattr(value, 'dtype', type(value).__name__)}"
            )
        if value.ndim >= 2 and isinstance(width, int) and value.shape[-1] != width:
            raise InvalidInput(f"{name} is {value.shape[-1]} wide, but the denoiser's cross-attention reads {width}")
    if given.get("negative_prompt") is not None and negative is not None:
        raise InvalidInput("both negative_prompt and negative_prompt_embeds are given: expected one of them")
    if isinstance(positive, torch.Tensor) and isinstance(negative, torch.Tensor) and positive.shape != negative.shape:
        raise InvalidInput(
            f"prompt_embeds {tuple(positive.shape)} and negative_prompt_embeds {tuple(negative.shape)} differ in shape"
        )


def _cross_attention_width(pipe: Any) -> Any:
    """Width of the text embeddings that the U-Net reads; None where it projects them first, or is no U-Net."""
    config = getattr(getattr(pipe, "unet", None), "config", None)
    return None if getattr(config, "encoder_hid_dim_type", None) else getattr(config, "cross_attention_dim", None)


def _check_generators(given: dict[str, Any], batch: int) -> None:
    generator = given.get("generator")
    if isinstance(generator, Sequence):
        if len(generator) != batch:
            raise InvalidInput(f"{len(generator)} generators for {batch} image(s): expected one, or one for each image")
    elif generator is not None and not isinstance(generator, torch.Generator):
        raise InvalidInput(f"generator must be a torch.Generator or a list of them, got {type(generator).__name__}")
