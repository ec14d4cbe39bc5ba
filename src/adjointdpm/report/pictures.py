"""Tensors to pictures, and pictures to captioned sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from adjointdpm.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

__all__ = ["picture_sheet", "to_pil"]

INK, PAPER, GAP, TEXT = (27, 31, 36), (255, 255, 255), 6, 13


def to_pil(images: Tensor) -> list[Image]:
    """(B, 3, H, W) or (3, H, W) in [0, 1] (values outside are cut) -> RGB pictures."""
    from PIL import Image

    if images.dim() == 3:
        images = images[None]
    if images.dim() != 4 or images.shape[1] != 3:
        raise InvalidInput(f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
    pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def picture_sheet(
    rows: Sequence[Sequence[Image]], columns: Sequence[str] = (), names: Sequence[str] = (), scale: int = 2
) -> Image:
    """One picture of a grid, `columns` named above and `names` at the left of each row.

    Pictures are enlarged `scale` times without smoothing; all must have the size of the first.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows or not rows[0]:
        raise InvalidInput("a picture sheet needs at least one picture")
    width, height = (scale * side for side in rows[0][0].size)
    font = ImageFont.load_default(TEXT)
    heads = [_wrap(text, font, width) for text in columns]
    sides = [_wrap(text, font, 2 * width) for text in names]
    top = GAP + max((len(h) for h in heads), default=0) * (TEXT + 4)
    left = GAP + max((int(font.getlength(line)) + 2 * GAP for side in sides for line in side), default=0)
    count = max(len(row) for row in rows)
    sheet = Image.new("RGB", (left + count * (width + GAP), top + len(rows) * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, lines in enumerate(heads):
        draw.multiline_text((left + c * (width + GAP), GAP // 2), "\n".join(lines), fill=INK, font=font, spacing=2)
    for r, row in enumerate(rows):
        y = top + r * (height + GAP)
        if sides:
            text = "\n".join(sides[r])
            draw.multiline_text((GAP, y + height / 2), text, fill=INK, font=font, anchor="lm", spacing=2)
        for c, picture in enumerate(row):
            enlarged = picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + c * (width + GAP), y))
    return sheet


def _wrap(text: str, font: FreeTypeFont | ImageFont, width: float) -> list[str]:
    """Break `text` at spaces so that lines fit `width` pixels; a longer word keeps its line."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
