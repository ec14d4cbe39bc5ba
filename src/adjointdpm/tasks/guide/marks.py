"""Where the object shall be, drawn on a picture for sheets and reports: dashes along the box, the outline of a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adjointdpm.tasks.guide.config import GuideConfig

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["marked"]

LIGHT, DARK, DASH = (255, 255, 255), (0, 0, 0), 3
TIMES = 4  # enlargement, so that the line hides little of a small picture


def marked(picture: Image, config: GuideConfig) -> Image:
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
        assert config.mask is not None
        with Images.open(config.mask) as opened:
            mask = opened.convert("L").resize(large.size, Images.Resampling.NEAREST)
        edge = mask.filter(ImageFilter.FIND_EDGES).point(lambda value: 255 if value > 0 else 0)
        large.paste(Images.new("RGB", large.size, (255, 0, 160)), mask=edge)
    return large


def _outline(left: int, top: int, right: int, bottom: int) -> list[tuple[int, int]]:
    across, down = range(left, right + 1), range(top, bottom + 1)
    return [*((x, y) for x in across for y in (top, bottom)), *((x, y) for y in down for x in (left, right))]
