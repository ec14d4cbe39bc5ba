"""The rivals of the paper's comparison, which never sample an image: they denoise the one reference image.

Textual Inversion (Gal et al. 2022, arXiv:2208.01618) learns the vectors of a new token, DreamBooth (Ruiz et al. 2023,
arXiv:2208.12242) all weights of the denoiser under a prompt with a rare identifier; no images of a prior, as in the
paper's comparison.  Both minimise the model's own training loss on the noised latent of the image.  One evaluation is a
forward or a VJP of one image and one guidance branch; both get as many as the fine-tuning through the sampler used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from adjointdpm.tasks.weights import Trained

__all__ = ["denoise", "latent_of", "learn_token", "learn_weights"]

BATCH = 16


@torch.no_grad()
def latent_of(pipe: Any, image: Tensor) -> Tensor:
    """The scaled latent (1, C, h, w) of an image (1, 3, H, W) in [0, 1]."""
    found = pipe.vae.encode(2 * image - 1)
    latent: Tensor = found.latents if hasattr(found, "latents") else found.latent_dist.mode()
    return latent * pipe.vae.config.scaling_factor


def denoise(
    pipe: Any,
    latent: Tensor,
    rows: Callable[[], Tensor],
    parameters: Mapping[str, Tensor],
    evaluations: int,
    lr: float,
    seed: int = 0,
) -> dict[str, Any]:
    """AdamW on the denoising loss of `latent` within `evaluations`; returns what was used.

    `rows()` gives the text rows (1, L, D) of the training prompt, with a graph where they are learnt.
    """
    generator = torch.Generator().manual_seed(seed)
    scheduler = pipe.scheduler
    steps = max(1, evaluations // (2 * BATCH))
    optimizer = torch.optim.AdamW(parameters.values(), lr=lr, weight_decay=0.01)
    losses = []
    clean = latent.expand(BATCH, -1, -1, -1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        t = torch.randint(0, len(scheduler.alphas_cumprod), (BATCH,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = scheduler.add_noise(clean, noise, t)
        wanted = (
            scheduler.get_velocity(clean, noise, t) if scheduler.config.prediction_type == "v_prediction" else noise
        )
        text = rows().expand(BATCH, -1, -1)
        loss = (pipe.unet(noisy, t, encoder_hidden_states=text).sample - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    few = max(1, steps // 10)
    return {
        "steps": steps,
        "batch": BATCH,
        "forwards": steps * BATCH,
        "vjps": steps * BATCH,
        "first_loss": sum(losses[:few]) / few,
        "last_loss": sum(losses[-few:]) / few,
    }


def learn_token(pipe: Any, space: Any, image: Tensor, evaluations: int, lr: float) -> dict[str, Any]:
    """Textual Inversion: `space` is a `TokenSpace`, whose token alone is the training prompt."""
    rows = lambda: space.encode([""])  # noqa: E731
    return denoise(pipe, latent_of(pipe, image), rows, {"token": space.parameter}, evaluations, lr)


def learn_weights(
    pipe: Any, trained: Trained, identifier: str, image: Tensor, evaluations: int, lr: float
) -> dict[str, Any]:
    """DreamBooth: the weights of an entered `Trained`, under the prompt `identifier`."""
    with torch.no_grad():
        text, _ = pipe.encode_prompt(identifier, pipe.device, 1, False)
    return denoise(pipe, latent_of(pipe, image), lambda: text, trained.parameters, evaluations, lr)
