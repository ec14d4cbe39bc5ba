"""Masks, reference images and sketches from files; what does not fit is refused with both sizes in the message.

Nothing is resampled: a mask that is stretched no longer says which pixels are meant, and pixels that are kept cannot be
kept in another size.  Another mode is converted by `read_image`, with a warning, where that loses nothing that counts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.images import open_picture, read_image

__all__ = ["check_box", "picture_size", "read_mask", "read_reference", "read_sketch", "read_small"]

BLACK, WHITE = 0.05, 0.95  # a mask's pixels lie below or above
PLAIN_MODES = ("1", "L", "P", "RGB", "I", "I;16", "I;16B", "I;16L")
SEE_THROUGH = ("LA", "La", "PA", "RGBA", "RGBa")
LINE = 0.5  # darkness at which a pixel of a sketch is a line


def picture_size(path: Path, what: str) -> tuple[int, int]:
    """(H, W) of a picture file, upright.

    Raises `InvalidInput` naming the file and `what` it should be: missing, no picture, animated or too large.
    """
    from PIL import ImageOps

    with open_picture(path, what) as opened:
        frames = getattr(opened, "n_frames", 1)
        if frames > 1 and opened.format != "MPO":  # the first frame of a phone's JPEG is the photograph
            raise InvalidInput(f"the {what} {path} is animated ({frames} frames); give one of them as a PNG")
        upright = ImageOps.exif_transpose(opened)
        return upright.height, upright.width


def _check_size(path: Path, what: str, size: tuple[int, int]) -> None:
    height, width = picture_size(path, what)
    if (height, width) != size:
        raise InvalidInput(
            f"the {what} {path} is {width} x {height}, the model's image {size[1]} x {size[0]}: resize it to that"
        )


def read_reference(path: Path, size: tuple[int, int]) -> Tensor:
    """A picture of exactly `size` (H, W), (1, 3, H, W) in [0, 1]; other modes become RGB with a warning."""
    _check_size(path, "reference image", size)
    return read_image(path, size)


def read_small(path: Path, size: tuple[int, int]) -> Tensor:
    """A low-resolution picture (1, 3, h, w), smaller than the model's image of `size` (H, W) in both directions."""
    height, width = picture_size(path, "low-resolution image")
    if height >= size[0] or width >= size[1]:
        raise InvalidInput(
            f"the low-resolution image {path} is {width} x {height}: it must be smaller than the model's "
            f"{size[1]} x {size[0]} both ways"
        )
    return read_image(path, (height, width))


def read_mask(path: Path, size: tuple[int, int], what: str = "mask") -> Tensor:
    """A black and white picture of exactly `size`, as (H, W): 1 where it is white.

    Raises `InvalidInput` for gray or transparent pixels, and a mask that is black or white all over.
    """
    from PIL import ImageOps

    _check_size(path, what, size)
    with open_picture(path, what) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode in SEE_THROUGH or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            clear = int((np.asarray(picture)[..., 3] < 255).sum())
            if clear:
                raise InvalidInput(
                    f"the {what} {path} is transparent in {clear} of its {size[0] * size[1]} pixels: expected black "
                    "and white without transparency, white where it holds"
                )
        elif picture.mode not in PLAIN_MODES:
            raise InvalidInput(
                f"the {what} {path} has mode {picture.mode}: expected a black and white picture, white where it holds"
            )
        deep = picture.mode.startswith("I")
        values = np.asarray(picture if deep else picture.convert("L"), dtype=np.float32)
    values = values / (max(float(values.max()), 1.0) if deep else 255.0)
    gray = int(((values > BLACK) & (values < WHITE)).sum())
    if gray:
        raise InvalidInput(
            f"the {what} {path} is not black and white: {gray} of its {values.size} pixels are gray (soft edges, "
            "JPEG?). Threshold it and save it as PNG."
        )
    mask = torch.from_numpy(values > 0.5).float()
    if not bool(mask.any()):
        raise InvalidInput(f"the {what} {path} is empty: it has no white pixel, so it asks for nothing")
    if bool(mask.all()):
        raise InvalidInput(f"the {what} {path} is white all over: leave some of the picture out, or leave the mask out")
    return mask


def read_sketch(path: Path, size: tuple[int, int]) -> Tensor:
    """A line drawing of exactly `size`, as (H, W) in [0, 1]: 1 on its lines, be they dark on light or light on dark.

    Raises `InvalidInput` for a sheet without lines.
    """
    _check_size(path, "sketch", size)
    darkness = 1 - read_image(path, size).mean(dim=(0, 1))
    if float((darkness > LINE).float().mean()) > 0.5:
        darkness = 1 - darkness
    if not bool((darkness > LINE).any()):
        raise InvalidInput(f"the sketch {path} shows no line: expected dark lines on a light sheet, or the reverse")
    return darkness


def check_box(box: tuple[float, float, float, float], size: tuple[int, int], what: str) -> None:
    """Raise `InvalidInput` if `box` is not inside the image of `size` (H, W)."""
    left, top, right, bottom = box
    height, width = size
    if left < 0 or top < 0 or right > width or bottom > height:
        raise InvalidInput(
            f"the {what} ({left:g}, {top:g}, {right:g}, {bottom:g}) reaches out of the image of {width} x {height} "
            "pixels (left, top, right, bottom)"
        )
