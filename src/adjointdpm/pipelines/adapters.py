"""Denoisers of diffusers as `net(x, t, cond)`, the one signature of the ODE road.

`cond` is a dict of what the network takes by keyword, each a tensor with a batch dimension or a dict of such tensors,
so that guidance can put two of them into one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.pipelines.wrt import without_grad

__all__ = ["DiffusersNetwork", "conditioning", "network_of"]


class DiffusersNetwork(torch.nn.Module):
    """A U-Net or transformer of diffusers: (x (B, C, h, w), t (B,), cond) -> (B, C, h, w).

    Args:
        network: the diffusers model; it stays the user's own module, its weights are not copied.
        constant: further keywords of every call (`cross_attention_kwargs`).
        left_out: weights that do not require grad during a call, also when it is replayed.
    """

    def __init__(
        self, network: torch.nn.Module, constant: dict[str, Any], left_out: Sequence[torch.nn.Parameter] = ()
    ) -> None:
        super().__init__()
        self.network = network
        self.left_out = tuple(left_out)
        self.constant = constant
        self.time_first = not hasattr(network, "pos_embed")  # U-Nets: forward(sample, timestep, …)

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, Any] | None) -> torch.Tensor:
        given = {**(cond or {}), **self.constant, "return_dict": False}
        with without_grad(self.left_out):
            if self.time_first:
                return self.network(x, t, **given)[0]  # type: ignore[no-any-return]
            return self.network(hidden_states=x, timestep=t, **given)[0]  # type: ignore[no-any-return]


def network_of(pipe: Any) -> torch.nn.Module:
    """The denoiser that the ODE road drives.

    Raises:
        InvalidInput: a pipeline whose denoiser has another signature, is controlled, packs its latents, or is distilled
            on a guidance embedding; the pipeline road takes those.
    """
    unet = getattr(pipe, "unet", None)  # not `unet or …`: a compiled module has no truth value
    network: Any = getattr(pipe, "transformer", None) if unet is None else unet
    kind = type(getattr(network, "_orig_mod", network)).__name__  # as it was before `torch.compile`
    if kind not in ("UNet2DConditionModel", "UNet2DModel", "SD3Transformer2DModel") or hasattr(pipe, "controlnet"):
        raise InvalidInput(
            f"the ODE road does not know how {type(pipe).__name__} calls its {kind}; use the pipeline road (no "
            "solver=), or wrap the network for ad.sample yourself"
        )
    if getattr(network.config, "time_cond_proj_dim", None) is not None:
        raise InvalidInput(
            f"{kind} is distilled on a guidance embedding, so it has no guided ODE; use the pipeline road"
        )
    if network.config.in_channels != (network.config.out_channels or network.config.in_channels):
        raise InvalidInput(
            f"{kind} takes {network.config.in_channels} channels and returns {network.config.out_channels} "
            "(inpainting or a learned variance): the ODE road needs as many; use the pipeline road"
        )
    assert isinstance(network, torch.nn.Module)
    return network


def conditioning(
    pipe: Any, encoded: dict[str, torch.Tensor], negative: bool, more: dict[str, Any]
) -> dict[str, Any] | None:
    """The keywords that the network takes, out of what `encode_prompt` returned.

    Args:
        pipe: the pipeline.
        encoded: embeddings by name.
        negative: those of the negative prompt.
        more: `time_ids` (1, 6) for SDXL.
    """
    prefix = "negative_" if negative else ""
    embeds = encoded.get(f"{prefix}prompt_embeds")
    if embeds is None:
        return None
    cond: dict[str, Any] = {"encoder_hidden_states": embeds}
    pooled = encoded.get(f"{prefix}pooled_prompt_embeds")
    if pooled is not None and hasattr(pipe, "unet"):
        cond["added_cond_kwargs"] = {
            "text_embeds": pooled,
            "time_ids": more["time_ids"].to(embeds).expand(len(pooled), -1),
        }
    elif pooled is not None:
        cond["pooled_projections"] = pooled
    return cond
