"""Which model an embedding was learnt on, as short hashes.

An embedding means something only to the text encoder and the denoiser that it was learnt with.  The text encoder is
hashed in full; of the denoiser every tensor's name and shape and an evenly spaced sample of its values (at most 1,024
a tensor), because the whole of a large one takes longer than generating an image.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch

__all__ = ["fingerprint", "weights_hash"]

SAMPLE = 1024


def fingerprint(pipe: Any) -> dict[str, str]:
    """{"text_encoder": 16 hex digits, "denoiser": 16 hex digits} of a diffusers pipeline; absent parts are left out.

    Values are hashed as float32, so the same weights in another dtype that holds them exactly give the same hash.
    """
    unet = getattr(pipe, "unet", None)  # not `unet or …`: a compiled module has no truth value
    denoiser = getattr(pipe, "transformer", None) if unet is None else unet
    found = {"text_encoder": (getattr(pipe, "text_encoder", None), None), "denoiser": (denoiser, SAMPLE)}
    return {name: weights_hash(module, sample) for name, (module, sample) in found.items() if module is not None}


def weights_hash(module: torch.nn.Module, sample: int | None = SAMPLE) -> str:
    """16 hex digits of a module's names, shapes and values, of at most `sample` of these in each tensor (None: all)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        if sample is not None and flat.numel() > sample:
            flat = flat[:: flat.numel() // sample]
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(flat.to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
