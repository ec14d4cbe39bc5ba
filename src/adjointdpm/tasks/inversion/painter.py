"""One place that calls the generator for an inversion: noise by seed, guidance, steps, and the pictures to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.tasks.inversion.config import InvertConfig
from adjointdpm.tasks.inversion.images import parts, tensors_of

__all__ = ["Painted", "Painter"]


@dataclass(frozen=True)
class Painted:
    """Images without a graph: `image` (B, 3, H, W) as the model made it, `shown` the same after the safety checker."""

    image: Tensor
    shown: Tensor


class Painter:
    """Draws images of embeddings (B, L, D) from the noises of seeds (B); counts the network's work."""

    def __init__(self, generator: Any, config: InvertConfig) -> None:
        self.generator = generator.with_(wrt=("cond",))
        self.config = config
        self.network_calls = 0
        self.vjps = 0

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Rows of the prompts and of the negative prompt, (B, L, D) each, without a graph."""
        with torch.no_grad():
            prompt, negative = self.generator.encode_prompt(list(prompts), self.config.negative_prompt)
        return prompt.detach(), negative.detach()

    def generate(self, embeds: Tensor, negative: Tensor, seeds: Sequence[int]) -> Any:
        """The generator's result, with a graph to `embeds`."""
        noise = torch.cat([self.generator.prepare_latents(1, seed) for seed in seeds])
        out = self.generator(
            prompt_embeds=embeds,
            negative_prompt_embeds=negative,
            latents=noise.to(embeds.device, embeds.dtype),
            num_inference_steps=self.config.steps,
            guidance_scale=self.config.guidance_scale,
        )
        self.network_calls += out.stats.nfe
        return out

    def paint(self, embeds: Tensor, negative: Tensor, seeds: Sequence[int]) -> Painted:
        """Images without a graph, `batch_size` at a time."""
        images, shown = [], []
        with torch.no_grad():
            for part in parts(len(seeds), self.config.batch_size):
                chosen = list(part)
                out = self.generate(embeds[chosen], negative[chosen], [seeds[i] for i in chosen])
                images.append(out.image.detach().float().cpu())
                shown.append(tensors_of(out.pil()))
        return Painted(torch.cat(images), torch.cat(shown))
