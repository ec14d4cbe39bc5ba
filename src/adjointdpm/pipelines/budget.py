"""A memory budget for a whole pipeline: what its other networks take, and the decoder asked before sampling begins."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from adjointdpm.pipelines.autoencode import decode
from adjointdpm.pipelines.components import autoencoder_of
from adjointdpm.pipelines.private import modules_of
from adjointdpm.pipelines.settings import Settings
from adjointdpm.pipelines.tensors import network_dtype
from adjointdpm.replay import Budget, replay

__all__ = ["budget_of"]

_peaks: weakref.WeakKeyDictionary[torch.nn.Module, dict[Any, int]] = weakref.WeakKeyDictionary()


def budget_of(pipe: Any, settings: Settings, latent_shape: tuple[int, ...] | None) -> Budget | None:
    """The budget of one call, None without `settings.memory`.

    The decoder runs last and has the largest graph.  So that a budget that it does not fit is refused at the first call
    of the denoiser, and not when all sampling is done, it is measured on latents of zeros here (once for each shape) if
    the shape of its input is known.
    """
    if settings.memory is None:
        return None
    budget = settings.memory if isinstance(settings.memory, Budget) else Budget(settings.memory)
    budget.count(*(module for _, module in modules_of(pipe)))
    vae = autoencoder_of(pipe)
    if vae is not None and latent_shape is not None and len(latent_shape) == 4:
        _ask_the_decoder(pipe, vae, budget, latent_shape)
    return budget


def _ask_the_decoder(pipe: Any, vae: torch.nn.Module, budget: Budget, shape: tuple[int, ...]) -> None:
    device, dtype = pipe._execution_device, network_dtype(pipe)
    known = _peaks.setdefault(vae, {})
    key = shape, dtype, device, vae.dtype, any(p.requires_grad for p in vae.parameters())
    if key not in known:
        ample = Budget(float(1 << 62))
        with torch.enable_grad(), replay(vae, memory=ample):
            decode(pipe, torch.zeros(shape, dtype=dtype, device=device, requires_grad=True))
        known[key] = 0 if ample.profile is None else ample.profile.peak_bytes
    budget.expect(known[key], f"{type(vae).__name__}.decode")
