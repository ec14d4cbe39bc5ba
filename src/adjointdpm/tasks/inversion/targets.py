"""What the embedding shall reproduce: an effect on the base image, the user's image, or what a word does."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.losses.load import load_function
from adjointdpm.losses.users import blamed
from adjointdpm.tasks.images import read_image
from adjointdpm.tasks.inversion.config import InvertConfig
from adjointdpm.tasks.inversion.painter import Painted, Painter

__all__ = ["load_effect", "true_effect", "with_words"]

Effect = Callable[[Tensor], Tensor]


def load_effect(config: InvertConfig) -> Effect | None:
    """The effect as a function of images, or None if the target is none; raises `InvalidInput` for a wrong name."""
    if config.effect is None:
        return None
    if ":" in config.effect:
        function = load_function(config.effect)
    else:
        from adjointdpm.zoo.effects import EFFECTS

        if config.effect not in EFFECTS:
            near = difflib.get_close_matches(config.effect, EFFECTS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise InvalidInput(
                f"no effect {config.effect!r}{hint} Built in: {', '.join(EFFECTS)}; or give 'module:function'"
            )
        function = EFFECTS[config.effect]
    options = config.effect_options
    who = f"the effect {config.effect!r}" + (f" with {options}" if options else "")

    def effect(images: Tensor) -> Tensor:
        with blamed(who):
            changed = function(images, **options)
        if not isinstance(changed, Tensor) or changed.shape != images.shape:
            got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise InvalidInput(f"the effect {config.effect!r} returned {got}; expected shape {tuple(images.shape)}")
        return changed.detach()

    return effect


def with_words(words: str, prompt: str) -> str:
    """`words` put around the prompt at "{prompt}", or behind it."""
    return words.replace("{prompt}", prompt) if "{prompt}" in words else f"{prompt} {words}"


def true_effect(
    config: InvertConfig, painter: Painter, prompts: Sequence[str], seeds: Sequence[int], plain: Painted
) -> Painted | None:
    """The target for these prompts and noises, whose plain images are given; None if it is only known for the pairs."""
    effect = load_effect(config)
    if effect is not None:
        return Painted(effect(plain.image), effect(plain.shown))
    if config.target_words is not None:
        embeds, negative = painter.encode([with_words(config.target_words, prompt) for prompt in prompts])
        return painter.paint(embeds, negative, seeds)
    return None


def read_targets(paths: Sequence[Path], like: Tensor) -> Painted:
    """The user's images, in the size of the generator's."""
    height, width = like.shape[-2:]
    images = torch.cat([read_image(path, (height, width)) for path in paths])
    return Painted(images, images)
