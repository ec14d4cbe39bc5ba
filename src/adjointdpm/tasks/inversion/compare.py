"""Plain prompt, prompt with the embedding, true effect, side by side, with the share of the gap closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.losses import feature_distance
from adjointdpm.tasks.inversion.painter import Painted, Painter
from adjointdpm.tasks.inversion.spaces import Space
from adjointdpm.tasks.inversion.targets import true_effect

__all__ = ["Comparison", "compare_unseen", "distance", "gap_closed"]

Features = Callable[[Tensor], list[Tensor]]  # a network's feature maps of images (B, 3, H, W)
PLAIN_NOUNS = ("cat", "rocket", "guitar", "mushroom", "house", "apple")


def distance(images: Tensor, true: Tensor, features: Features | None = None) -> Tensor:
    """For each image (B,): the mean squared error, or with `features` the distance of the two images' features."""
    if features is None:
        return (images - true).square().flatten(1).mean(dim=1)
    with torch.no_grad():
        return feature_distance(features(images), features(true))


def gap_closed(ours: Tensor, plain: Tensor, true: Tensor, features: Features | None = None) -> Tensor:
    """1 − d(ours, true) / d(plain, true) for each image (B,), d as in `distance`; 1 is perfect, 0 no effect."""
    return 1 - distance(ours, true, features) / distance(plain, true, features).clamp_min(1e-12)


@dataclass(frozen=True)
class Comparison:
    """Images (B, 3, H, W) of the same prompts and noises; `true` is None where the true effect is not known."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    plain: Painted
    ours: Painted
    true: Painted | None

    def gap(self) -> float | None:
        """Median over the images, or None."""
        if self.true is None:
            return None
        return float(gap_closed(self.ours.image, self.plain.image, self.true.image).median())

    def grid(self) -> tuple[list[str], list[list[Any]], list[str]]:
        """Column heads, rows of pictures and row names, for reports and sheets."""
        from adjointdpm.report import to_pil

        columns = ["plain prompt", "with the embedding", "true effect"]
        shown = [self.plain.shown, self.ours.shown, *([self.true.shown] if self.true is not None else [])]
        rows = [list(row) for row in zip(*(to_pil(images) for images in shown), strict=True)]
        names = [f"{prompt}, seed {seed}" for prompt, seed in zip(self.prompts, self.seeds, strict=True)]
        return columns[: len(shown)], rows, names


def compare_unseen(painter: Painter, space: Space) -> Comparison | None:
    """Prompts and noises that the optimisation never saw: every unseen prompt with every unseen seed; None if none."""
    config = painter.config
    chosen = config.unseen_prompts
    if chosen is None:
        chosen = tuple(noun for noun in PLAIN_NOUNS if not any(noun in prompt for prompt in config.prompts))[:4]
    if not chosen:
        return None
    prompts = [prompt for prompt in chosen for _ in config.unseen_seeds]
    seeds = [seed for _ in chosen for seed in config.unseen_seeds]
    embeds, negative = painter.encode(prompts)
    plain = painter.paint(embeds, negative, seeds)
    with torch.no_grad():
        ours = painter.paint(space.encode(prompts), negative, seeds)
    return Comparison(prompts, seeds, plain, ours, true_effect(config, painter, prompts, seeds, plain))
