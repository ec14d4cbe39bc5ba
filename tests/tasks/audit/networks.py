"""Networks to audit in tests: tiny, of random weights, for images of 16 x 16; and such that are wrong in some way.

Named as "tests.tasks.audit.networks:NAME" by tests of the command line.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from adjointdpm.pipelines import differentiable
from tests.support.tiny_pipeline import tiny_pipeline

CLASSES = 5
SCALE = 30.0  # images of the tiny pipeline are dark and differ little


@cache
def center() -> Tensor:
    """Mean features of a few images of the tiny pipeline: around it verdicts are open."""
    gen = differentiable(tiny_pipeline())
    embeds, negative = gen.encode_prompt(["cat", "moon", "blue bus", "heart"], "")
    noise = torch.cat([gen.prepare_latents(1, seed) for seed in range(100, 104)])
    with torch.no_grad():
        images = gen(prompt_embeds=embeds, negative_prompt_embeds=negative, latents=noise, num_inference_steps=2,
                     guidance_scale=3.0).image  # fmt: skip
    return pooled(images).mean(dim=0)


def pooled(images: Tensor) -> Tensor:
    return SCALE * nn.functional.avg_pool2d(images, 4).flatten(1)  # (B, 48)


class Tiny(nn.Module):
    """Logits (B, 5)."""

    def __init__(self, seed: int = 0, classes: int = CLASSES) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner, self.head = nn.Linear(48, 16), nn.Linear(16, classes, bias=False)
            self.inner.bias.data.zero_()
        self.register_buffer("center", center())

    def features(self, images: Tensor) -> Tensor:
        return torch.tanh(3 * self.inner(pooled(images.to(self.center.dtype)) - self.center))

    def forward(self, images: Tensor) -> Tensor:
        return 10 * self.head(self.features(images))


def tiny() -> nn.Module:
    return Tiny().requires_grad_(False)


def other() -> nn.Module:
    return Tiny(1).requires_grad_(False)


def agrees(images: Tensor) -> Tensor:
    return torch.ones(len(images), dtype=torch.bool)


def breaks(images: Tensor) -> Tensor:
    """An error of the user's own."""
    return {}["weight"] * images


def halves(images: Tensor) -> Tensor:
    """A gradient everywhere."""
    return images / 2 + 0.25


def eight_bits(images: Tensor) -> Tensor:
    return (images * 255).to(torch.uint8).float() / 255


def rounds(images: Tensor) -> Tensor:
    return torch.round(images * 255) / 255


def through_numpy(images: Tensor) -> Tensor:
    return torch.from_numpy(images.detach().numpy() * 1)


def asks_numpy(images: Tensor) -> Tensor:
    return torch.from_numpy(images.numpy() * 1)


def no_grad(images: Tensor) -> Tensor:
    with torch.no_grad():
        return images * 2


def looks_aside(images: Tensor) -> Tensor:
    """Takes a detached look at the images, which stops nothing."""
    if bool(images.detach().max() > 2):
        raise ValueError
    return images * 2


def calls_home(images: Tensor) -> Tensor:
    import socket

    with socket.socket() as line:
        line.connect(("127.0.0.1", 9))
    return tiny()(images)
