"""Rival (a): the best that the model's own vocabulary can say, found by search on the training pairs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from adjointdpm.runs import load_tensors, save_tensors
from adjointdpm.tasks.inversion.painter import Painter
from adjointdpm.tasks.inversion.targets import with_words
from studies.inversion.design import TRAIN_PROMPTS, TRAIN_SEEDS


def candidates() -> list[str]:
    """Every effect word, style, light and background of the vocabulary, as it stands in captions."""
    from adjointdpm.zoo import lexicon as v

    return [
        *v.EFFECTS,
        v.NAMELESS,
        *(f"{style} {{prompt}}" for style in v.STYLES),
        *(f"lit from {light}" for light in v.LIGHTS),
        *(f"on {color} background" for color in v.COLORS),
        *(f"on {pattern}" for pattern in v.PATTERNS),
    ]


def word_images(painter: Painter, cache: Path) -> dict[str, Tensor]:
    """For each candidate, the images (P, 3, H, W) of the training pairs with it; drawn once for all effects."""
    wanted = candidates()
    if cache.exists():
        found, _ = load_tensors(cache)
        if set(found) == set(wanted):
            return found
    images = {}
    for phrase in wanted:
        embeds, negative = painter.encode([with_words(phrase, prompt) for prompt in TRAIN_PROMPTS])
        images[phrase] = painter.paint(embeds, negative, TRAIN_SEEDS).image
    save_tensors(cache, images)
    return images


def best_word(images: dict[str, Tensor], target: Tensor) -> tuple[str, float]:
    """The candidate with the lowest mean squared error on the training pairs, and that error."""
    losses = {phrase: float((found - target).square().mean()) for phrase, found in images.items()}
    best = min(losses, key=lambda phrase: losses[phrase])
    return best, losses[best]


def encode_with(painter: Painter, phrase: str, prompts: list[str]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return painter.encode([with_words(phrase, prompt) for prompt in prompts])
