"""Images from the user and from the generator: reading, and generating in parts that fit the memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from adjointdpm.errors import InputWarning, InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["open_picture", "parts", "read_image", "tensors_of"]

MAX_PIXELS = 50_000_000


@contextmanager
def open_picture(path: Path, what: str) -> Iterator[Image]:
    """The picture in a file, of which nothing is decoded yet.

    Raises `InvalidInput` naming the file and `what` it should be, also for damage that only decoding shows: missing, no
    image, cut short or larger than 50 megapixels.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InvalidInput(
                    f"the {what} {path} has {picture.width} x {picture.height} pixels; at most 50 megapixels are read"
                )
            yield picture
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"the {what} {path} cannot be read: {error}") from error


def read_image(path: Path, size: tuple[int, int]) -> Tensor:
    """The image as (1, 3, H, W) in [0, 1], RGB, upright, of `size` (H, W).

    Warns where it converts: transparency onto white, other modes to RGB, another size by resampling.  Raises
    `InvalidInput` naming the file if it is missing, no image, cut short or larger than 50 megapixels.
    """
    from PIL import Image, ImageOps

    with open_picture(path, "target image") as opened:
        picture = ImageOps.exif_transpose(opened)
        picture.load()
    if picture.mode != "RGB":
        warnings.warn(f"{path} has mode {picture.mode}; converted to RGB, transparency on white", InputWarning, 4)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            over = picture.convert("RGBA")
            picture = Image.new("RGBA", over.size, (255, 255, 255, 255))
            picture.alpha_composite(over)
        if picture.mode.startswith("I;16"):
            picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
        picture = picture.convert("RGB")
    if picture.size != (size[1], size[0]):
        warnings.warn(
            f"{path} is {picture.width} x {picture.height}; resampled to the model's {size[1]} x {size[0]}",
            InputWarning,
            4,
        )
        picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return tensors_of([picture])


def tensors_of(pictures: Sequence[Any]) -> Tensor:
    """RGB pictures of one size -> (B, 3, H, W) float32 in [0, 1]."""
    arrays = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


def parts(count: int, size: int | None) -> list[range]:
    """Indices 0 … count − 1 in runs of at most `size`."""
    size = size or max(count, 1)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
