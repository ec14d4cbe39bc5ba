"""Draws scenes at random: how often each object, background, light and effect is trained.

Held-out (object, style) and (object, effect) pairs are redrawn until none is left, so the model
never sees them; `held_out.json` lists them.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from adjointdpm.zoo.compose import SLOTS, Scenes
from adjointdpm.zoo.lexicon import COLORS, EFFECTS, LIGHTS, PATTERNS, POSITIONS, SIZES, STYLES
from adjointdpm.zoo.objects import OBJECTS

SIZE_SHARES = (0.18, 0.82)
OFF_CENTER = {"small": 0.6, "large": 0.3}
KIND_SHARES = (0.55, 0.18, *[0.27 / len(PATTERNS)] * len(PATTERNS))
WHITE_SHARE = 0.35  # of the plain backgrounds, beyond its share as one of the colours
EFFECT_SHARES = {"one": 0.32, "two": 0.06, "nameless": 0.13}
LIGHT_SHARE = 0.13
STRENGTH = (0.65, 1.0)  # of a named effect


@cache
def held_out() -> dict[str, list[list[str]]]:
    """The pairs that training never shows: {"style": [[object, style], …], "effect": […]}."""
    return json.loads((files(__package__) / "held_out.json").read_text())


@cache
def _held_out_masks() -> tuple[Tensor, Tensor]:
    """Boolean (objects, styles) and (objects, effects + 1): the last column stands for no effect."""
    words = list(OBJECTS)
    styles = torch.zeros(len(words), len(STYLES), dtype=torch.bool)
    named = torch.zeros(len(words), len(EFFECTS) + 1, dtype=torch.bool)
    for word, style in held_out()["style"]:
        styles[words.index(word), STYLES.index(style)] = True
    for word, effect in held_out()["effect"]:
        named[words.index(word), EFFECTS.index(effect)] = True
    return styles, named


def _choice(shares: tuple[float, ...], n: int, g: torch.Generator) -> Tensor:
    return torch.multinomial(torch.tensor(shares), n, replacement=True, generator=g)


def draw_scenes(n: int, generator: torch.Generator, include_held_out: bool = False, richness: float = 1.0) -> Scenes:
    """`n` independent scenes; `include_held_out` lifts the ban (classifiers see every pair).

    `richness` below 1 makes effects and lights rarer: a denoiser that is still learning its objects
    is served fewer of them.
    """
    g = generator

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g)

    def integer(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=g)

    size = _choice(SIZE_SHARES, n, g)
    off_center = uniform(n) < torch.tensor([OFF_CENTER[name] for name in SIZES])[size]
    position = torch.where(off_center, integer(len(POSITIONS) - 1, n), POSITIONS.index("center"))
    kind = _choice(KIND_SHARES, n, g)
    color = integer(len(COLORS), n)
    color[(kind == 0) & (uniform(n) < WHITE_SHARE)] = list(COLORS).index("white")
    color2 = (color + 1 + integer(len(COLORS) - 1, n)) % len(COLORS)
    light = torch.where(uniform(n) < richness * LIGHT_SHARE, integer(len(LIGHTS), n), -1)
    effect, nameless = _draw_effects(kind, richness, uniform, integer)
    obj, style = integer(len(OBJECTS), n), integer(len(STYLES), n)
    if not include_held_out:
        styles, named = _held_out_masks()
        while (bad := styles[obj, style] | named[obj[:, None], effect].any(dim=1)).any():
            obj[bad], style[bad] = integer(len(OBJECTS), n)[bad], integer(len(STYLES), n)[bad]
    low, high = STRENGTH
    map_low, map_high = draw_color_maps(n, g)
    return Scenes(
        obj, style, size, position, kind, color, torch.where(kind == 1, color2, -1),
        light, 0.65 + 0.35 * uniform(n),
        effect, low + (high - low) * uniform(n, SLOTS), nameless.long(), map_low, map_high,
    )  # fmt: skip


def _draw_effects(kind: Tensor, richness: float, uniform, integer) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    """Named effects (B, SLOTS), -1 for none, and which images get a nameless one instead."""
    n = kind.shape[0]
    one, two, nameless_share = (richness * share for share in EFFECT_SHARES.values())
    lot = uniform(n)
    effect = torch.full((n, SLOTS), -1)
    effect[:, 0] = torch.where(lot < one + two, integer(len(EFFECTS), n), -1)
    effect[:, 1] = torch.where(lot < two, integer(len(EFFECTS), n), -1)
    effect[effect[:, 0] == effect[:, 1], 1] = -1
    bokeh = EFFECTS.index("bokeh")
    for slot in range(SLOTS):  # on a plain or smooth background there is nothing to blur
        effect[(effect[:, slot] == bokeh) & (kind < 2), slot] = -1
    # patterned scenes without an effect become bokeh often enough to make up for that
    bare = (kind >= 2) & (effect < 0).all(dim=1) & (uniform(n) < 0.12 * richness)
    effect[bare, 0] = bokeh
    nameless = (lot > 1 - nameless_share) & (effect < 0).all(dim=1)
    return effect, nameless


def draw_color_maps(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random nameless effects: affine colour maps (n, 3, 4) for the shadows and for the lights."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    identity = torch.eye(3, 4).expand(n, 3, 4)
    maps = []
    duotone = [
        torch.cat([torch.zeros(n, 3, 3), c[:, :, None]], 2) for c in (0.5 * uniform(n, 3), 0.35 + 0.65 * uniform(n, 3))
    ]
    split = [identity.clone() for _ in range(2)]
    mix = torch.cat(
        [
            torch.eye(3) + 0.35 * torch.randn(n, 3, 3, generator=generator),
            0.12 * torch.randn(n, 3, 1, generator=generator),
        ],
        2,
    )
    for ends in split:
        ends[:, :, 3] = 0.5 * uniform(n, 3) - 0.25
    family = torch.randint(0, 3, (n, 1, 1), generator=generator)
    strength = 0.3 + 0.7 * uniform(n, 1, 1)
    for k in range(2):
        full = torch.where(family == 0, duotone[k], torch.where(family == 1, split[k], mix))
        maps.append(identity + strength * (full - identity))
    return maps[0], maps[1]
