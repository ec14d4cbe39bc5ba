"""Rival (b): ordinary textual inversion (Gal et al. 2022, arXiv:2208.01618), which never samples an image.

The new token's vectors are learnt by the training loss of the model itself: noise is put on a reference image's
latent and the network, told "prompt <token>", shall predict it.  References are the same target images, the optimiser
and schedule the same; each evaluation is one forward and one VJP of one guidance branch of one image, and it gets as
many of these as the inversion through the sampler used, its recomputed forwards included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.tasks.inversion.spaces import Space
from studies.inversion.design import TRAIN_PROMPTS

BATCH = 16


@dataclass(frozen=True)
class Budget:
    """Network evaluations counted per image and guidance branch."""

    forwards: int
    vjps: int

    @property
    def total(self) -> int:
        return self.forwards + self.vjps


def sampler_budget(epochs: int, pairs: int, steps: int) -> Budget:
    """Inversion through `steps` guided steps: N forwards, N − 1 recomputations, N VJPs of two branches per image.

    pairs: images in one step of the optimiser.
    """
    images = epochs * pairs * 2
    return Budget(images * (2 * steps - 1), images * steps)


def learn(pipe: Any, space: Space, targets: Tensor, budget: Budget, lr: float, seed: int = 0) -> dict[str, Any]:
    """Optimise `space.parameter` on the denoising loss within `budget`; returns what it used."""
    generator = torch.Generator().manual_seed(seed)
    scheduler = pipe.scheduler
    with torch.no_grad():
        latents = pipe.vae.encode(2 * targets - 1)
        latents = (
            latents.latents if hasattr(latents, "latents") else latents.latent_dist.mode()
        ) * pipe.vae.config.scaling_factor
    alphas = scheduler.alphas_cumprod
    steps = budget.total // (2 * BATCH)
    optimizer = torch.optim.AdamW([space.parameter], lr=lr, weight_decay=0.01)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        which = torch.randint(0, len(targets), (BATCH,), generator=generator)
        t = torch.randint(0, len(alphas), (BATCH,), generator=generator)
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=generator)
        clean = latents[which]
        noisy = scheduler.add_noise(clean, noise, t)
        wanted = (
            scheduler.get_velocity(clean, noise, t) if scheduler.config.prediction_type == "v_prediction" else noise
        )
        embeds = space.encode([TRAIN_PROMPTS[int(i)] for i in which])
        loss = (pipe.unet(noisy, t, encoder_hidden_states=embeds).sample - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    last = losses[-max(1, steps // 10) :]
    return {
        "steps": steps,
        "batch": BATCH,
        "forwards": steps * BATCH,
        "vjps": steps * BATCH,
        "last_loss": sum(last) / len(last),
    }
