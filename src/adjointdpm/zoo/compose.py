"""Composes training images on the fly: a scene (what the caption can say) becomes pixels.

A `Scenes` batch holds one integer or number per field and image.  Scenes are drawn at random or
set by hand (evaluation needs real images of a given prompt), painted in vectorised torch, and
described by `captions.py`.  Nothing is stored: unlimited data at thousands of images a second.

Sprites sit on a grid of 8 pixels, so that an object has one latent pattern wherever it stands; the
autoencoder itself is trained with `jitter=True` half of the time, off the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adjointdpm.zoo import effects as fx
from adjointdpm.zoo.backgrounds import PERIOD, paint, pale, palette
from adjointdpm.zoo.lexicon import COLORS, EFFECTS, LIGHTS, PATTERNS, POSITIONS, SIZES, STYLES

IMAGE = 64
STEP = 8  # objects move by this many pixels: one cell of the denoiser's 8 x 8 level
SLOTS = 2  # named effects an image can carry
POINTWISE = {  # named effects that act pixel by pixel, in the vocabulary's order
    "grayscale": fx.black_and_white,
    "sepia": fx.sepia,
    "warm": fx.warm,
    "cool": fx.cool,
    "rosy": fx.rosy,
    "greenish": fx.greenish,
    "vivid": fx.vivid,
    "faded": fx.faded,
    "dark": fx.dark,
    "bright": fx.bright,
}


@dataclass
class Scenes:
    """One batch of scenes; -1 means absent.  All tensors have the batch as first dimension."""

    object: Tensor
    style: Tensor
    size: Tensor
    position: Tensor  # index into POSITIONS, center included
    kind: Tensor  # background: 0 plain, 1 gradient, 2 + pattern
    color: Tensor
    color2: Tensor  # second colour of a gradient
    light: Tensor
    light_strength: Tensor
    effect: Tensor  # (B, SLOTS)
    strength: Tensor  # (B, SLOTS)
    nameless: Tensor  # 1 where a nameless colour effect is applied
    map_low: Tensor  # (B, 3, 3), (B, 3): the nameless effect, see `nameless_effect`
    map_high: Tensor

    def __len__(self) -> int:
        return self.object.shape[0]


class Sprites:
    """The sprite atlas by size, premultiplied RGBA in [0, 255], read from the data stage's npz."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.by_size = [torch.from_numpy(arrays[name]) for name in SIZES]  # (objects, styles, s, s, 4)

    @classmethod
    def load(cls, path: Path) -> Sprites:
        with np.load(path, allow_pickle=False) as file:
            return cls({name: file[name] for name in SIZES})


def _corner(size: int, position: int, moved: tuple[int, int], step: int) -> tuple[int, int]:
    """Top-left corner of a sprite: where the position word puts it, else the middle, moved."""
    margin = IMAGE - size
    name = POSITIONS[position]
    top = {"top": 0, "bottom": margin}.get(name, margin // 2)
    left = {"left": 0, "right": margin}.get(name, margin // 2)
    if step == 1 or name not in ("top", "bottom"):
        top += step * moved[0]
    if step == 1 or name not in ("left", "right"):
        left += step * moved[1]
    return min(max(top, 0), margin), min(max(left, 0), margin)


def _foregrounds(scenes: Scenes, sprites: Sprites, moves: Tensor, step: int) -> Tensor:
    """(B, 4, 64, 64) premultiplied RGBA in [0, 1] with each sprite at its place."""
    canvas = torch.zeros(len(scenes), IMAGE, IMAGE, 4, dtype=torch.uint8)
    sizes = list(SIZES.values())
    rows = zip(
        scenes.object.tolist(),
        scenes.style.tolist(),
        scenes.size.tolist(),
        scenes.position.tolist(),
        moves.tolist(),
        strict=True,
    )
    for i, (obj, style, size, position, moved) in enumerate(rows):
        extent = sizes[size]
        top, left = _corner(extent, position, moved, step)
        canvas[i, top : top + extent, left : left + extent] = sprites.by_size[size][obj, style]
    return canvas.permute(0, 3, 1, 2).float() / 255


def nameless_effect(image: Tensor, map_low: Tensor, map_high: Tensor) -> Tensor:
    """A smooth colour map: two affine maps of colour (B, 3, 4), mixed by luminance.

    Duotones, split toning, channel mixes and every named colour tone are points of this family.
    """
    gray = fx.luminance(image)
    ones = torch.ones_like(gray)
    rgb1 = torch.cat([image, ones], dim=1)
    low = torch.einsum("bij,bjhw->bihw", map_low, rgb1)
    high = torch.einsum("bij,bjhw->bihw", map_high, rgb1)
    return (low * (1 - gray) + high * gray).clamp(0, 1)


def compose(
    scenes: Scenes,
    sprites: Sprites,
    generator: torch.Generator,
    jitter: bool = False,
    moves: Tensor | None = None,
) -> Tensor:
    """Paint the scenes: (B, 3, 64, 64) float in [0, 1].

    Without `jitter` a third of the objects moves by 8 pixels, never along the axis that a position
    word fixes; with it, all of them move by a few pixels, off the grid.  `moves` (B, 2) sets the
    vertical and horizontal moves instead.
    """
    batch = len(scenes)
    reach, step = (4, 1) if jitter else (1, STEP)
    if moves is None:
        moves = torch.randint(-reach, reach + 1, (batch, 2), generator=generator)
        if not jitter:
            moves[torch.rand(batch, generator=generator) < 0.7] = 0
    front = _foregrounds(scenes, sprites, moves, step)
    offsets = torch.zeros(2, batch)
    if jitter:
        offsets = torch.randint(0, PERIOD, (2, batch), generator=generator).float()
    colors = palette()
    first = colors[scenes.color]
    second = torch.where((scenes.kind == 1)[:, None], colors[scenes.color2.clamp_min(0)], pale(first))
    back = paint(scenes.kind, first, second, offsets[0], offsets[1])
    bokeh = _slot_strength(scenes, "bokeh")
    blurred_back = bokeh > 0
    if blurred_back.any():
        sigma = bokeh[blurred_back] * IMAGE / 12
        back[blurred_back] = fx.gaussian_blur(back[blurred_back], sigma)
    image = front[:, :3] + (1 - front[:, 3:]) * back
    for index, side in enumerate(LIGHTS):
        lit = scenes.light == index
        if lit.any():
            image[lit] = fx.relight(image[lit], scenes.light_strength[lit], side)
    for slot in range(SLOTS):
        for name, effect in POINTWISE.items():
            chosen = scenes.effect[:, slot] == EFFECTS.index(name)
            if chosen.any():
                image[chosen] = effect(image[chosen], scenes.strength[chosen, slot])
    chosen = scenes.nameless == 1
    if chosen.any():
        image[chosen] = nameless_effect(image[chosen], scenes.map_low[chosen], scenes.map_high[chosen])
    blur = _slot_strength(scenes, "blurred")
    chosen = blur > 0
    if chosen.any():
        image[chosen] = fx.blurred(image[chosen], blur[chosen])
    return image.clamp(0, 1)


def _slot_strength(scenes: Scenes, name: str) -> Tensor:
    """(B,) strength of one named effect, 0 where it is absent."""
    return (scenes.strength * (scenes.effect == EFFECTS.index(name))).amax(dim=1)


__all__ = ["COLORS", "PATTERNS", "STYLES", "Scenes", "Sprites", "compose", "nameless_effect"]
