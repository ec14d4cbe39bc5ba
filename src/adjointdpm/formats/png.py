"""PNG files that say how they were made, in the `parameters` text that A1111-style tools read.

a red apple
Negative prompt: blurry
Steps: 20, Sampler: DDIM, CFG scale: 5, Seed: 7, Size: 64x64
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from adjointdpm.errors import InvalidInput
from adjointdpm.runs import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["GenerationText", "read_png_text", "save_png"]


@dataclass(frozen=True)
class GenerationText:
    """What made an image; `extra` adds further `Key: value` pairs (no commas or line breaks in them)."""

    prompt: str
    negative_prompt: str = ""
    steps: int | None = None
    sampler: str | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def parameters(self, size: tuple[int, int]) -> str:
        fields: dict[str, object | None] = {
            "Steps": self.steps,
            "Sampler": self.sampler,
            "CFG scale": None if self.guidance_scale is None else f"{self.guidance_scale:g}",
            "Seed": self.seed,
            "Size": f"{size[0]}x{size[1]}",
            **self.extra,
        }
        lines = [self.prompt]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {self.negative_prompt}")
        lines.append(", ".join(f"{key}: {value}" for key, value in fields.items() if value is not None))
        return "\n".join(lines)


def save_png(image: Image, path: Path | str, text: GenerationText | None = None) -> Path:
    """Write a PIL image as PNG, atomically, with `text` as its `parameters`."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if text is not None:
        info.add_text("parameters", text.parameters(image.size))
    buffer = BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return atomic_write(path, buffer.getvalue())


def read_png_text(path: Path | str) -> str | None:
    """The `parameters` text of a PNG, or None; raises `InvalidInput` if the file is no readable image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            found = image.info.get("parameters")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"{path} is not a readable image ({error})") from error
    return None if found is None else str(found)
