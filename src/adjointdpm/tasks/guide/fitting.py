"""What a configuration leaves open is settled by the pipeline, and what does not fit it is found before any picture.

Settings that are None get the values that are known to do well: for any pipeline both noise and embedding (the noise
alone along a sketch), and a guess blended in, where it can take them; for the embedded model its classifier and its own
words for places as well.  The same setting given explicitly is taken as it is, or refused where it cannot be had.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.formats import word_rows
from adjointdpm.formats.rows import row_count
from adjointdpm.pipelines.autoencode import decode
from adjointdpm.tasks.guide.config import Box, GuideConfig
from adjointdpm.tasks.guide.grid import as_grid
from adjointdpm.tasks.guide.guess import check_blend
from adjointdpm.tasks.guide.terms import place_of
from adjointdpm.tasks.networks import is_embedded
from adjointdpm.tasks.painter import Painter

__all__ = ["BLEND", "fitted", "image_size", "words_for"]

BLEND = (0.4, 0.8)
ASIDE = 0.08  # of the side: how far from the middle a place has words of its own
SMALL = 0.6  # of the side: an object in a smaller place is better called small


@torch.no_grad()
def image_size(painter: Painter) -> tuple[int, int]:
    """(H, W) of the images, from the decoder alone."""
    height, width = decode(painter.generator.pipe, as_grid(painter.noise([0]))).shape[-2:]
    return int(height), int(width)


def fitted(config: GuideConfig, painter: Painter, size: tuple[int, int]) -> GuideConfig:
    """`config` with a value for every setting, for images of `size` (H, W).

    Raises `InvalidInput` for a setting that is given and that the pipeline cannot take.
    """
    embedded = is_embedded(painter.generator.pipe)
    changes: dict[str, Any] = {}
    if config.optimise is None:
        # along a sketch the embedding takes the object apart: every edge that is no line has to go
        both = config.sketch is None and _paints_changed_rows(config, painter)
        changes["optimise"] = "both" if both else "noise"
    elif config.optimise != "noise":
        _check_rows(config, painter)
    try:
        check_blend(config, painter, size)
        changes["blend"] = BLEND if config.blend is None else config.blend
    except InvalidInput:
        if config.blend is not None:
            raise
        changes["blend"] = ()
    if config.recogniser is None:
        changes["recogniser"] = "embedded" if embedded and _known_objects(config) else "none"
    if config.phrases is None:
        words = words_for(config, place_of(config, size), size) if embedded else ()
        changes["phrases"] = _that_fit(words, config, painter)[: config.candidates - 1]
    return config.model_copy(update=changes)


def _paints_changed_rows(config: GuideConfig, painter: Painter) -> bool:
    try:
        _check_rows(config, painter)
    except InvalidInput:
        return False
    return True


def _check_rows(config: GuideConfig, painter: Painter) -> None:
    """Raise `InvalidInput` unless every wording has rows behind its own words, and the pipeline paints them changed."""
    painter.check_changed_rows(config.prompts[0])
    pipe = painter.generator.pipe
    length = row_count(pipe)
    for prompt in dict.fromkeys(config.wording(p, k) for p in config.prompts for k in range(config.candidates)):
        if word_rows(pipe, [prompt])[0] >= length:
            raise InvalidInput(
                f"the prompt {prompt!r} takes all {length} rows of the text encoder, so that none is left to "
                "optimise: shorten it, or optimise the noise"
            )


def _known_objects(config: GuideConfig) -> bool:
    """Whether every prompt names an object of the embedded model; says so if one does not."""
    from adjointdpm.zoo.lexicon import objects_in

    nameless = [prompt for prompt in config.prompts if not objects_in(prompt)]
    if nameless:
        warnings.warn(
            f"no recogniser keeps the object: the prompt {nameless[0]!r} names none of the embedded model's",
            InputWarning,
            stacklevel=4,
        )
    return not nameless


def words_for(config: GuideConfig, place: Box | None, size: tuple[int, int]) -> tuple[str, ...]:
    """Wordings of the embedded model that say where `place` is and whether it is small; none for what prompts say."""
    from adjointdpm.zoo.lexicon import SIZES, spoken

    said = {word for prompt in config.prompts for word in spoken(prompt)}
    if place is None:
        return ("small {prompt}", "large {prompt}") if config.size is not None and not said & set(SIZES) else ()
    height, width = size
    left, top, right, bottom = place
    small = max((right - left) / width, (bottom - top) / height) < SMALL and not said & set(SIZES)
    prompt = "small {prompt}" if small else "{prompt}"
    across = _word((left + right) / 2 / width, "left", "right")
    down = _word((top + bottom) / 2 / height, "top", "bottom")
    places = dict.fromkeys([across, down, down + across]) if "at" not in said else {"": None}
    return tuple(prompt + place for place in places if prompt + place != "{prompt}")


def _word(middle: float, low: str, high: str) -> str:
    return f" at {low}" if middle < 0.5 - ASIDE else f" at {high}" if middle > 0.5 + ASIDE else ""


def _that_fit(phrases: tuple[str, ...], config: GuideConfig, painter: Painter) -> tuple[str, ...]:
    """Those that leave a row of the text encoder free in every prompt."""
    pipe = painter.generator.pipe

    def rows(phrase: str) -> int:
        return max(word_rows(pipe, [phrase.replace("{prompt}", prompt) for prompt in config.prompts]))

    return tuple(phrase for phrase in phrases if rows(phrase) < row_count(pipe))
