"""Images of a user (path, PIL, tensor) as (B, 3, H, W) in [0, 1], each oddity said or refused."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adjointdpm.errors import InputWarning, InvalidInput

__all__ = ["load_images"]


def load_images(image: Any, height: int, width: int) -> torch.Tensor:
    """Images as a float32 tensor (B, 3, height, width) in [0, 1].

    Args:
        image: a path, a PIL image, a tensor (3, H, W) or (B, 3, H, W) in [0, 1], or a list of them.
        height, width: the size wanted; pictures of another size are cropped to its shape in the middle and resized,
            with a warning; tensors of another size are refused.

    Raises:
        InvalidInput: unreadable, empty, too large (a decompression bomb), or values outside [0, 1].
    """
    if isinstance(image, Sequence) and not isinstance(image, str | os.PathLike):
        if not image:
            raise InvalidInput("the list of images is empty")
        return torch.cat([load_images(one, height, width) for one in image])
    if isinstance(image, torch.Tensor):
        return _checked_tensor(image, height, width)
    picture = _opened(image) if isinstance(image, str | os.PathLike) else image
    if not hasattr(picture, "convert") or not hasattr(picture, "mode"):
        raise InvalidInput(f"expected a path, a PIL image or a tensor, got {type(image).__name__}")
    return _tensor_of(_fitted(_as_rgb(picture), height, width))


def _checked_tensor(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    image = image[None] if image.ndim == 3 else image
    shape = tuple(image.shape)
    if not image.is_floating_point() or len(shape) != 4 or shape[0] < 1 or shape[1:] != (3, height, width):
        raise InvalidInput(
            f"the image tensor is {image.dtype} of shape {shape}; expected floats (B, 3, {height}, {width})"
        )
    low, high = float(image.min()), float(image.max())
    if not bool(torch.isfinite(image).all()) or low < -1e-3 or high > 1 + 1e-3:
        raise InvalidInput(f"the image tensor runs from {low:.3g} to {high:.3g}; expected finite values in [0, 1]")
    return image.detach().float().clamp(0, 1)


def _opened(path: str | os.PathLike[str]) -> Any:
    from PIL import Image

    if not Path(path).is_file():
        raise InvalidInput(f"there is no image file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(path)
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"{path} is no readable image: {error}") from error
    return picture


def _as_rgb(picture: Any) -> Any:
    from PIL import Image, ImageOps

    if getattr(picture, "n_frames", 1) > 1:
        warnings.warn(
            f"the image is animated: its first of {picture.n_frames} frames is taken", InputWarning, stacklevel=5
        )
        picture.seek(0)
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more: Pillow would cut, not scale
        values = np.asarray(picture, dtype=np.float64)
        span = 65535.0 if picture.mode.startswith("I") else max(float(values.max()), 1.0)
        picture = Image.fromarray((values / span * 255).clip(0, 255).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        warnings.warn("the image has transparency: it is laid on white", InputWarning, stacklevel=5)
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return picture.convert("RGB")


def _fitted(picture: Any, height: int, width: int) -> Any:
    from PIL import Image, ImageOps

    if picture.size == (width, height):
        return picture
    warnings.warn(
        f"the image is {picture.size[0]} × {picture.size[1]}: cropped in the middle and resized to {width} × {height}",
        InputWarning,
        stacklevel=5,
    )
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def _tensor_of(picture: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(picture, dtype=np.float32) / 255).permute(2, 0, 1)[None].contiguous()
