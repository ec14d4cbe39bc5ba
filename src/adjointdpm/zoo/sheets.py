"""Sample sheets of the evaluation as PNG files: what the model paints, prompt by prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adjointdpm.zoo.lexicon import EFFECTS, STYLES
from adjointdpm.zoo.measure import generate
from adjointdpm.zoo.objects import OBJECTS

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SCALE = 2  # nearest-neighbour enlargement, so that pixels stay what they are


def save_sheet(images: Tensor, columns: int, path: Path) -> None:
    """(N, 3, H, W) in [0, 1], row by row, a white gap between."""
    from PIL import Image

    n, _, height, width = images.shape
    gap = 3
    rows = -(-n // columns)
    sheet = torch.ones(3, rows * (height + gap) + gap, columns * (width + gap) + gap)
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    pixels = (sheet.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    picture = Image.fromarray(pixels)
    picture.resize((SCALE * picture.width, SCALE * picture.height), Image.Resampling.NEAREST).save(path, optimize=True)


def write_sheets(images: dict[str, Tensor], pipe: StableDiffusionPipeline, folder: Path) -> None:
    """`samples.png`: the even prompts; `objects.png`: objects in each style; `effects.png`: one noise, every effect."""
    save_sheet(images["even"], 20, folder / "samples.png")
    save_sheet(images["held_out"], 12, folder / "held_out.png")
    chosen = list(OBJECTS)[:: len(OBJECTS) // 24][:24]
    plain = [f"{style} {word} on white background" for style in STYLES for word in chosen]
    save_sheet(generate(pipe, plain, 0), 24, folder / "objects.png")
    lights = [f"lit from {side}" for side in ("left", "right", "top")]
    scenes = ["shaded owl on blue checks", "flat strawberry on yellow dots", "3d rocket on purple stripes"]
    rows = [
        generate_same_noise(pipe, [f"{scene} {word}".strip() for word in ("", *EFFECTS, *lights)], seed)
        for seed, scene in enumerate(scenes)
    ]
    save_sheet(torch.cat(rows), len(EFFECTS) + 4, folder / "effects.png")


def generate_same_noise(pipe: StableDiffusionPipeline, prompts: list[str], seed: int) -> Tensor:
    """All prompts from one and the same noise."""
    return torch.cat([generate(pipe, [prompt], seed) for prompt in prompts])
