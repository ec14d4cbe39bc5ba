"""Pictures for sheets and reports: what was given, and where the object shall be, drawn on a result.

A box is shown by dashes along it, a mask by its outline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from adjointdpm.report import to_pil
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.inputs import read_mask, read_sketch, read_small
from adjointdpm.tasks.guide.terms import kept_part

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MASK", "given_pictures", "marked"]

LIGHT, DARK, DASH = (255, 255, 255), (0, 0, 0), 3
MASK = "mask"
TIMES = 4  # enlargement, so that the line hides little of a small picture


def given_pictures(config: GuideConfig, size: tuple[int, int]) -> dict[str, Image]:
    """The files that the configuration names, by what they are; they are read now, for they may be gone later."""
    found: dict[str, Tensor] = {}
    if config.mask is not None:
        found[MASK] = read_mask(config.mask, size).expand(3, -1, -1)
    if config.image is not None:
        reference, keep = kept_part(config, size)
        found["image"], found["what is kept of it"] = reference[0], (keep * reference + (1 - keep) / 2)[0]
    if config.sketch is not None:
        found["sketch"] = 1 - read_sketch(config.sketch, size).expand(3, -1, -1)
    if config.low_resolution is not None:
        found["small picture"] = read_small(config.low_resolution, size)[0]
    return {name: to_pil(picture)[0] for name, picture in found.items()}


def marked(picture: Image, config: GuideConfig, given: Mapping[str, Image]) -> Image:
    """A copy, enlarged without smoothing if it is small, with the wished-for place; as it is where none was asked."""
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFilter

    if config.box is None and config.mask is None:
        return picture
    times = TIMES if max(picture.size) <= 128 else 1
    large = picture.convert("RGB").resize((times * picture.width, times * picture.height), Images.Resampling.NEAREST)
    if config.box is not None:
        draw = ImageDraw.Draw(large)
        left, top, right, bottom = (round(times * edge) for edge in config.box)
        for place in _outline(left, top, right - 1, bottom - 1):
            draw.point(place, LIGHT if (place[0] + place[1]) // DASH % 2 else DARK)
    else:
        mask = given[MASK].convert("L").resize(large.size, Images.Resampling.NEAREST)
        edge = mask.filter(ImageFilter.FIND_EDGES).point(lambda value: 255 if value > 0 else 0)
        large.paste(Images.new("RGB", large.size, (255, 0, 160)), mask=edge)
    return large


def _outline(left: int, top: int, right: int, bottom: int) -> list[tuple[int, int]]:
    across, down = range(left, right + 1), range(top, bottom + 1)
    return [*((x, y) for x in across for y in (top, bottom)), *((x, y) for y in down for x in (left, right))]
