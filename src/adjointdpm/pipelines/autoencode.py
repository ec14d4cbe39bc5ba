"""Latents to images and back, with the scaling that the autoencoder's config states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from adjointdpm.pipelines.components import autoencoder_of

__all__ = ["decode", "encode"]


def _scaling(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    """(factor, shift) of latents = (z − shift) · factor."""
    config = vae.config
    scale = float(getattr(config, "scaling_factor", None) or 1.0)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        shape = (1, -1, *[1] * (like.ndim - 2))
        as_channels = [torch.tensor(v, device=like.device, dtype=like.dtype).reshape(shape) for v in (mean, std)]
        return scale / as_channels[1], as_channels[0]
    return scale, float(getattr(config, "shift_factor", None) or 0.0)


@contextmanager
def _upcast(pipe: Any, vae: Any) -> Iterator[None]:
    """In float32 what overflows in float16, where the pipeline's own call does so too (the family of SDXL)."""
    needed = (
        vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False) and hasattr(type(pipe), "upcast_vae")
    )
    if needed:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if needed:
            vae.to(torch.float16)


def decode(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) latents to (B, 3, H, W) in [-1, 1], unclamped; in pixel space the latents themselves."""
    vae = autoencoder_of(pipe)
    if vae is None:
        return latents
    factor, shift = _scaling(vae, latents)
    with _upcast(pipe, vae):
        return vae.decode((latents / factor + shift).to(vae.dtype), return_dict=False)[0]  # type: ignore[no-any-return]


def encode(pipe: Any, image: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] to latents (B, C, h, w): the mode of the autoencoder's distribution, no sample of it."""
    vae = autoencoder_of(pipe)
    if vae is None:
        return image * 2 - 1
    with _upcast(pipe, vae):
        encoded = vae.encode((image * 2 - 1).to(vae.dtype))
    if hasattr(encoded, "latent_dist"):
        latents: torch.Tensor = encoded.latent_dist.mode()
    else:
        latents = encoded.latents
    factor, shift = _scaling(vae, latents)
    return (latents - shift) * factor
