"""The reference image: whatever a file holds, as sRGB colours in [0, 1], upright, in a size fit for the network.

Colours are half of a style, so profiles are honoured (CMYK without one is only a guess, and is said to be).  A Gram
matrix does not ask for the size of the generated images; the reference's size sets how large its texture appears.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.tasks.images import MAX_PIXELS, open_picture, tensors_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["open_style", "style_tensor"]

SMALLEST, LONGEST = 16, 4.0  # pixels of the shorter side; sides of 1 : 4 at most


def open_style(path: Path) -> Image:
    """The picture in RGB, upright, in the colours of sRGB.

    Warns where it converts or cuts: the first frame of an animation, transparency laid on white, CMYK without a colour
    profile, a long strip cut, an image of one colour.  Raises `InvalidInput` naming the file if it is missing, no
    image, cut short, larger than 50 megapixels, or too small to have a texture.
    """
    picture = _srgb(_opened(path), path)
    width, height = picture.size
    if min(width, height) < SMALLEST:
        raise InvalidInput(
            f"the style image {path} has {width} x {height} pixels, which hold no texture; "
            f"give one of at least {SMALLEST} x {SMALLEST}"
        )
    if float(np.asarray(picture, dtype=np.float32).std(axis=(0, 1)).max()) < 1:
        _say(f"the style image {path} is of one colour: there is no texture in it, only the colour can be learnt")
    return _cut(picture, path)


def style_tensor(picture: Image, side: int, name: str = "the style image") -> Tensor:
    """(1, 3, H, W) in [0, 1], its shorter side `side` pixels long; warns if that enlarges it.

    Raises `InvalidInput` for a size that holds no texture, or more than 50 megapixels.
    """
    from PIL import Image

    shorter = min(picture.size)
    if side < SMALLEST or side**2 * max(picture.size) / shorter > MAX_PIXELS:
        raise InvalidInput(
            f"{name} would be scaled to {side} pixels on its shorter side; expected at least {SMALLEST}, and 50 "
            f"megapixels at most: choose a {'larger' if side < SMALLEST else 'smaller'} style_scale (--style-scale)"
        )
    if shorter < side:
        _say(f"{name} is only {picture.width} x {picture.height}: enlarged, which blurs its texture")
    width, height = (max(side, round(length * side / shorter)) for length in picture.size)
    return tensors_of([picture.resize((width, height), Image.Resampling.LANCZOS)])


def _say(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=4)


def _opened(path: Path) -> Image:
    from PIL import ImageOps

    if not path.is_file():
        raise InvalidInput(f"there is no style image {path}" if not path.is_dir() else f"{path} is a folder, no image")
    with open_picture(path, "style image") as opened:
        frames = getattr(opened, "n_frames", 1)
        opened.load()
        picture: Image = ImageOps.exif_transpose(opened)
    if frames > 1:
        _say(f"{path} has {frames} frames: the first one is taken")
    return picture


def _srgb(picture: Image, path: Path) -> Image:
    """RGB in the colours of sRGB, without transparency."""
    from PIL import Image

    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep(picture, path)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        _say(f"{path} has transparency: it is laid on white")
        ground = Image.new("RGBA", over.size, "white")
        ground.alpha_composite(over)
        picture = ground.convert("RGB")
    if profile and picture.mode in ("RGB", "CMYK", "L"):
        converted = _through_profile(picture, profile)
        if converted is not None:
            return converted
        _say(f"the colour profile in {path} does not fit the image and is left out")
    if picture.mode == "CMYK":
        _say(f"{path} is CMYK without a colour profile: its colours are a guess; save it as sRGB to be sure")
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise InvalidInput(f"{path} has colours of mode {picture.mode}, which cannot be read: {error}") from error


def _through_profile(picture: Image, profile: bytes) -> Image | None:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _deep(picture: Image, path: Path) -> Image:
    """16 or 32 bits of gray: scaled, where Pillow would cut."""
    from PIL import Image

    values: Any = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InvalidInput(f"{path} holds NaN or infinite values")
    if picture.mode == "F" or values.max() > 65535:
        low, high = float(values.min()), float(values.max())
        _say(f"{path} runs from {low:g} to {high:g}: scaled to black … white")
        values = (values - low) / max(high - low, 1e-12) * 65535
    return Image.fromarray((values / 257).clip(0, 255).round().astype(np.uint8)).convert("RGB")


def _cut(picture: Image, path: Path) -> Image:
    width, height = picture.size
    longest = int(LONGEST * min(width, height))
    if max(width, height) <= longest:
        return picture
    _say(f"{path} is a strip of {width} x {height}: its middle is taken, four times as long as it is wide")
    wide, high = min(width, longest), min(height, longest)
    left, top = (width - wide) // 2, (height - high) // 2
    return picture.crop((left, top, left + wide, top + high))
