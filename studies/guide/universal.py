"""Rival: guidance while sampling (universal guidance; Bansal et al. 2023, arXiv:2302.07121, with its recurrence).

At each step the network's own estimate of the clean image is decoded and judged, and the gradient of the loss through
that one estimate bends the step; then noise is put back and the step is made again, `recurrence` times.  One network
call and one VJP for each, instead of a gradient through the whole sampler.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["calls", "sample"]

Losses = Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> (B,)


def calls(steps: int, recurrence: int) -> int:
    """Network calls and VJPs of one image (the two branches of guidance are one call, as in the sampler)."""
    return 2 * steps * recurrence


def sample(
    pipe: Any, embeds: Tensor, negative: Tensor, noise: Tensor, losses: Losses, steps: int, guidance: float,
    recurrence: int, rate: float, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Images (B, 3, H, W), clamped; `rate` is the root mean square of what is added to the predicted noise."""
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps)
    source = torch.Generator().manual_seed(seed)
    text = torch.cat([negative, embeds])
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        now = scheduler.alphas_cumprod[t]
        before = t - scheduler.config.num_train_timesteps // steps
        later = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
        for again in range(recurrence):
            x = x.detach().requires_grad_()
            raw = pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=text).sample
            without, with_text = raw.chunk(2)
            v = without + guidance * (with_text - without)
            clean, epsilon = now.sqrt() * x - (1 - now).sqrt() * v, now.sqrt() * v + (1 - now).sqrt() * x
            image = pipe.vae.decode(clean / pipe.vae.config.scaling_factor).sample / 2 + 0.5
            (gradient,) = torch.autograd.grad(losses(image).sum(), x)
            with torch.no_grad():
                unit = gradient / gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
                bent = epsilon + rate * (1 - now).sqrt() * unit
                clean = (x - (1 - now).sqrt() * bent) / now.sqrt()
                following = later.sqrt() * clean + (1 - later).sqrt() * bent
                if again < recurrence - 1:
                    ratio = now / later
                    fresh = torch.randn(x.shape, generator=source).to(x)
                    x = ratio.sqrt() * following + (1 - ratio).sqrt() * fresh
        x = following
    with torch.no_grad():
        return (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]
