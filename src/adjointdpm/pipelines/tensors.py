"""The tensors of a call: which keep their gradient, as `wrt` says, and the copies that the pipeline is handed.

A pipeline gets a copy of each tensor that requires grad.  So it may change its inputs in place, and whether a gradient
reaches the user's tensor can be told afterwards from the graph.
"""

from __future__ import annotations

from typing import Any

import torch

from adjointdpm.errors import UnreachedGradient
from adjointdpm.pipelines.components import denoisers_of
from adjointdpm.pipelines.inputs import Call, guidance_argument
from adjointdpm.pipelines.wrt import Selection

__all__ = ["GUIDANCE", "handed_over", "network_dtype", "refuse_unused"]

GUIDANCE = ("guidance_scale", "true_cfg_scale")


def network_dtype(pipe: Any) -> torch.dtype:
    """The number format of the denoiser's weights; latents are cast to it."""
    for module in denoisers_of(pipe).values():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
    return torch.float32


def _kind(name: str) -> str:
    return {"latents": "x_T"}.get(name, "guidance" if name in GUIDANCE else "cond")


def handed_over(
    pipe: Any, call: Call, selection: Selection, shape_guidance: bool = True
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The arguments as the pipeline gets them, and those of its tensors that require grad, by name.

    Latents are cast to the denoiser's number format (the gradient comes back in the user's), a guidance tensor is
    shaped to multiply the latents, and tensors that `wrt` leaves out are detached.
    """
    sources: dict[str, torch.Tensor] = {}

    def hand(name: str, value: Any, keep: bool) -> Any:
        if isinstance(value, torch.Tensor):
            if not value.requires_grad:
                return value
            if not keep:
                return value.detach()
            sources[name] = value.clone()
            return sources[name]
        if isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value):
            return type(value)(hand(f"{name}[{i}]", v, keep) for i, v in enumerate(value))
        if isinstance(value, dict) and any(isinstance(v, torch.Tensor) for v in value.values()):
            return {key: hand(f"{name}[{key!r}]", v, keep) for key, v in value.items()}
        return value

    kept = {"x_T": selection.x_T, "cond": selection.cond, "guidance": selection.guidance}
    arguments = {name: hand(name, value, kept[_kind(name)]) for name, value in call.arguments.items()}
    dtype = network_dtype(pipe)
    if "latents" in arguments:
        arguments["latents"] = arguments["latents"].to(dtype)
    for name in GUIDANCE:
        if name in arguments and shape_guidance:
            ndim = 3 if hasattr(pipe, "_pack_latents") else 5 if hasattr(pipe, "video_processor") else 4
            arguments[name] = guidance_argument(arguments[name], ndim, dtype)
    return arguments, sources


def refuse_unused(call: Call, selection: Selection) -> None:
    """With guidance off, a pipeline reads neither the negative embedding nor the guidance scale: say so at once.

    Raises:
        UnreachedGradient: one of them requires grad.
    """
    if call.guided or not torch.is_grad_enabled():
        return
    for name, asked in (("negative_prompt_embeds", selection.cond), ("guidance_scale", selection.guidance)):
        value = call.arguments.get(name)
        if asked and isinstance(value, torch.Tensor) and value.requires_grad and "guidance_scale" in call.parameters:
            raise UnreachedGradient(
                f"{name} requires grad, but guidance is off (guidance_scale ≤ 1), so a pipeline does not use it: raise "
                f"guidance_scale above 1, take the ODE road (solver=…), or pass {name}.detach()"
            )
