"""Pixel rules: does an image obey its prompt's effect word and background words?

Rules are nearest-rendering tests.  The scene that the prompt names is composed from real drawings
under every effect (each at three strengths) and under none, at each of the places where the
object may stand; an effect word is obeyed if the nearest of these renderings, in mean squared
pixel difference, carries it.  A background is obeyed if, among all backgrounds under that
effect, the nearest one around the object is the named one, or within `TIE` of it.  The rules look at
pixels only, were fixed before the model was trained, and are measured on composed images in
`rule_quality`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adjointdpm.zoo.compose import Sprites, compose
from adjointdpm.zoo.lexicon import COLORS, EFFECTS, LIGHTS
from adjointdpm.zoo.prompts import KINDS, Row, scenes_of

STRENGTHS = (0.65, 0.825, 1.0)
PLACES = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))  # (9, 2) moves of the object
TIE = 0.015  # root mean square difference that no eye would tell
FAR = 0.16  # a background farther than this from its rendering is wrong even if nearest


def effect_of(row: Row) -> str:
    """The row's effect as one label: a word, `light left` …, or `none`."""
    if row.get("light"):
        return f"light {row['light']}"
    return row.get("effect") or "none"


def _with_effect(row: Row, label: str) -> Row:
    bare = {k: v for k, v in row.items() if k not in ("effect", "light")}
    if label == "none":
        return bare
    return bare | ({"light": label.split()[1]} if label.startswith("light ") else {"effect": label})


def effect_labels(row: Row) -> list[str]:
    """Every effect that could show in the row's scene (bokeh needs a pattern)."""
    words = [e for e in EFFECTS if e != "bokeh" or row["kind"] not in ("plain", "gradient")]
    return ["none", *words, *(f"light {side}" for side in LIGHTS)]


def _render(rows: list[Row], strength: float, sprites: Sprites, moves: Tensor) -> Tensor:
    return compose(scenes_of(rows, strength), sprites, torch.Generator(), moves=moves)


def nearest_effect(image: Tensor, row: Row, sprites: Sprites) -> tuple[str, int]:
    """The effect of the nearest rendering of the row's scene, and its place (index into PLACES)."""
    best = (float("inf"), "none", 0)
    labels = effect_labels(row)
    rows = [_with_effect(row, label) for label in labels for _ in PLACES]
    moves = PLACES.repeat(len(labels), 1)
    for strength in STRENGTHS:
        distance = (_render(rows, strength, sprites, moves) - image).square().mean(dim=(1, 2, 3))
        k = int(distance.argmin())
        if distance[k] < best[0]:
            best = (float(distance[k]), labels[k // len(PLACES)], k % len(PLACES))
    return best[1], best[2]


def effect_obeyed(image: Tensor, row: Row, sprites: Sprites) -> bool:
    """Image (3, 64, 64) in [0, 1]."""
    return nearest_effect(image, row, sprites)[0] == effect_of(row)


def backgrounds() -> list[Row]:
    """Every background that a caption can name."""
    plain = [{"kind": kind, "color": color} for kind in KINDS if kind != "gradient" for color in COLORS]
    mixed = [{"kind": "gradient", "color": a, "color2": b} for a in COLORS for b in COLORS if a != b]
    return plain + mixed


def background_obeyed(image: Tensor, row: Row, sprites: Sprites) -> bool:
    """Image (3, 64, 64) in [0, 1]; judged on the pixels that the object leaves free."""
    place = PLACES[nearest_effect(image, row, sprites)[1]][None]
    labels = backgrounds()
    named = labels.index({k: row[k] for k in ("kind", "color", "color2") if row.get(k)})
    extra = {k: row[k] for k in ("effect", "light") if row.get(k)}
    rows = [{"object": row["object"], "style": row["style"]} | ground | extra for ground in labels]
    # free pixels: those that differ between a black and a white ground
    pair = [rows[0] | {"kind": "plain", "color": c} for c in ("white", "black")]
    pair = [{k: v for k, v in r.items() if k not in ("effect", "light", "color2")} for r in pair]
    black_white = _render(pair, 1.0, sprites, place.repeat(2, 1))
    free = ((black_white[0] - black_white[1]).abs().amin(0) > 0.9).float()
    best = torch.full((len(rows),), float("inf"))
    for strength in STRENGTHS if extra else STRENGTHS[:1]:
        gap = (_render(rows, strength, sprites, place.repeat(len(rows), 1)) - image).square().sum(1) * free
        best = torch.minimum(best, (gap.sum(dim=(1, 2)) / (3 * free.sum()).clamp_min(1)).sqrt())
    return bool(best[named] <= min(float(best.min()) + TIE, FAR))


def rule_quality(rows: list[Row], sprites: Sprites, seed: int = 0) -> dict[str, dict[str, int]]:
    """How often the rules are right on composed images, and how often wrongly content.

    Right: the row's own scene at a random strength and place.  Falsely positive: the same scene
    with another effect (or another background) in place of the named one.
    """
    generator = torch.Generator().manual_seed(seed)

    def pick(options: list[str] | list[Row]) -> str | Row:
        return options[int(torch.randint(len(options), (1,), generator=generator))]

    def draw(row: Row) -> Tensor:
        strength = 0.65 + 0.35 * float(torch.rand(1, generator=generator))
        place = PLACES[torch.randint(len(PLACES), (1,), generator=generator)]
        return _render([row], strength, sprites, place)[0]

    counts = {rule: {"n": 0, "right": 0, "false_positives": 0} for rule in ("effect", "background")}
    for row in rows:
        real = draw(row)
        if effect_of(row) != "none":
            other = pick([label for label in effect_labels(row) if label != effect_of(row)])
            changed = draw(_with_effect(row, str(other)))
            _count(counts["effect"], effect_obeyed(real, row, sprites), effect_obeyed(changed, row, sprites))
        ground = {k: row[k] for k in ("kind", "color", "color2") if row.get(k)}
        same_kind = [
            g for g in backgrounds() if g != ground and (row.get("effect") != "bokeh" or g["kind"] not in KINDS[:2])
        ]
        swapped = {k: v for k, v in row.items() if k != "color2"} | dict(pick(same_kind))  # type: ignore[arg-type]
        changed = draw(swapped)
        _count(counts["background"], background_obeyed(real, row, sprites), background_obeyed(changed, row, sprites))
    return counts


def _count(counts: dict[str, int], right: bool, false_positive: bool) -> None:
    counts["n"] += 1
    counts["right"] += right
    counts["false_positives"] += false_positive
