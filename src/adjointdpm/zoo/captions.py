"""Scenes in words: the caption of a composed image, with each word left out now and then."""

from __future__ import annotations

import random

from adjointdpm.zoo.compose import Scenes
from adjointdpm.zoo.lexicon import COLORS, EFFECTS, LIGHTS, NAMELESS, PATTERNS, POSITIONS, SIZES, STYLES
from adjointdpm.zoo.objects import OBJECTS

EMPTY = 0.10  # share of captions dropped whole, for guidance
DROP = {
    "style": 0.08,
    "large": 0.6,
    "background": 0.15,
    "white": 0.45,
    "position": 0.25,
    "effect": 0.05,
    "object": 0.01,
}


def caption(scenes: Scenes, i: int, rng: random.Random | None = None) -> str:
    """Caption of scene `i`; every word is named if `rng` is None, else dropped as in training."""

    def keep(part: str) -> bool:
        return rng is None or rng.random() >= DROP[part]

    if rng is not None and rng.random() < EMPTY:
        return ""
    words: list[str] = []
    size = list(SIZES)[scenes.size[i]]
    if size == "small" or keep("large"):
        words.append(size)
    if keep("style"):
        words.append(STYLES[scenes.style[i]])
    if keep("object"):
        words.append(list(OBJECTS)[scenes.object[i]])
    words += _background(scenes, i, keep)
    position = POSITIONS[scenes.position[i]]
    if position != "center" and keep("position"):
        words += ["at", position]
    if scenes.light[i] >= 0 and keep("effect"):
        words += ["lit", "from", LIGHTS[scenes.light[i]]]
    effects = [EFFECTS[e] for e in scenes.effect[i].tolist() if e >= 0 and keep("effect")]
    if rng is not None:
        rng.shuffle(effects)
    words += effects
    if scenes.nameless[i] and keep("effect"):
        words.append(NAMELESS)
    return " ".join(words)


def _background(scenes: Scenes, i: int, keep) -> list[str]:  # type: ignore[no-untyped-def]
    colors = list(COLORS)
    kind, color = int(scenes.kind[i]), colors[scenes.color[i]]
    if not keep("white" if kind == 0 and color == "white" else "background"):
        return []
    if kind == 0:
        return ["on", color, "background"]
    if kind == 1:
        return ["on", color, colors[scenes.color2[i]], "gradient"]
    return ["on", color, PATTERNS[kind - 2]]
