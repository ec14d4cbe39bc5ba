"""The committed evaluation prompts, and how they were drawn.

200 prompts spread evenly over objects, styles, effects (12 named ones, three lights, none) and
backgrounds, plus one prompt for each held-out pair.  A row names its scene field by field, so that
the same scene can be composed from real drawings.  Pairs of effect and scene on which the effect
shows nothing (`grayscale` of a panda on white) are redrawn.
"""

from __future__ import annotations

import json
import random
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from adjointdpm.zoo.compose import SLOTS, Scenes, Sprites, compose
from adjointdpm.zoo.draw import held_out
from adjointdpm.zoo.lexicon import COLORS, EFFECTS, LIGHTS, PATTERNS, POSITIONS, SIZES, STYLES
from adjointdpm.zoo.objects import OBJECTS

Row = dict[str, Any]
KINDS = ("plain", "gradient", *PATTERNS)
MIDDLE = 0.825  # the middle of the strengths that a word is trained with
VISIBLE = 0.035  # mean absolute change that an effect must make to be asked for


@cache
def evaluation_prompts() -> dict[str, list[Row]]:
    """{"even": 200 rows, "held_out": one row a held-out pair}."""
    return json.loads((files(__package__) / "prompts.json").read_text())


def scenes_of(rows: list[Row], strength: float = MIDDLE) -> Scenes:
    """The rows' scenes, effects at `strength`."""
    n = len(rows)

    def index(options: Any, key: str, default: int = -1) -> torch.Tensor:
        names = list(options)
        return torch.tensor([names.index(row[key]) if row.get(key) else default for row in rows])

    effect = torch.full((n, SLOTS), -1)
    effect[:, 0] = index(EFFECTS, "effect")
    identity = torch.eye(3, 4).expand(n, 3, 4)
    return Scenes(
        index(OBJECTS, "object"), index(STYLES, "style"),
        index(SIZES, "size", list(SIZES).index("large")), index(POSITIONS, "position", POSITIONS.index("center")),
        index(KINDS, "kind"), index(COLORS, "color"), index(COLORS, "color2"),
        index(LIGHTS, "light"), torch.full((n,), strength), effect, torch.full((n, SLOTS), strength),
        torch.zeros(n, dtype=torch.long), identity, identity,
    )  # fmt: skip


def words_of(row: Row) -> str:
    """The row's prompt."""
    ground = {"plain": "background", "gradient": "gradient"}.get(row["kind"], row["kind"])
    words = [row["style"], row["object"], "on", row["color"], row.get("color2"), ground]
    words += ["lit", "from", row["light"]] if row.get("light") else [row.get("effect")]
    return " ".join(word for word in words if word)


def _visible(row: Row, sprites: Sprites) -> bool:
    generator, still = torch.Generator(), torch.zeros(2, 2, dtype=torch.long)
    plain = {k: v for k, v in row.items() if k not in ("effect", "light")}
    pair = compose(scenes_of([row, plain]), sprites, generator, moves=still)
    return float((pair[0] - pair[1]).abs().mean()) >= VISIBLE


def _cycle(options: list[Any], n: int, rng: random.Random) -> list[Any]:
    """`n` entries, each option as often as any other (within one), in random order."""
    out: list[Any] = []
    while len(out) < n:
        out += rng.sample(options, len(options))
    return rng.sample(out[:n], n)


def _ground(kind: str, color: str, rng: random.Random) -> Row:
    other = rng.choice([c for c in COLORS if c != color])
    return {"kind": kind, "color": color} | ({"color2": other} if kind == "gradient" else {})


def draw_prompts(sprites: Sprites, seed: int = 0, n: int = 200) -> dict[str, list[Row]]:
    """Draw both lists; the committed file is this function's output at its defaults."""
    rng = random.Random(seed)
    banned = {tuple(pair) for pairs in held_out().values() for pair in pairs}
    wished = [None] * 4 + list(EFFECTS) + [f"light:{side}" for side in LIGHTS]
    effects = _cycle(wished, n, rng)
    patterned = [i for i, e in enumerate(effects) if e == "bokeh"]  # needs a pattern to blur
    kinds = _cycle(list(KINDS), n, rng)
    for i in patterned:
        j = next(j for j in range(n) if j not in patterned and kinds[j] in PATTERNS) if kinds[i] not in PATTERNS else i
        kinds[i], kinds[j] = kinds[j], kinds[i]
    colors, styles = _cycle(list(COLORS), n, rng), _cycle(list(STYLES), n, rng)
    pool = _cycle(list(OBJECTS), n, rng)
    even: list[Row] = []
    for effect, kind, color, style in zip(effects, kinds, colors, styles, strict=True):
        extra = {} if effect is None else {"light": effect[6:]} if effect.startswith("light:") else {"effect": effect}
        for k, word in enumerate(pool):  # noqa: B007  (k is used below)
            row = {"object": word, "style": style} | _ground(kind, color, rng) | extra
            if (word, style) not in banned and (word, effect) not in banned and (not extra or _visible(row, sprites)):
                break
        else:  # nothing left fits this ground: change its colour
            k, row = _recolor(pool, style, kind, extra, banned, sprites, rng)
        pool.pop(k)
        even.append({"prompt": words_of(row)} | row)
    return {"even": even, "held_out": _held_out_prompts(sprites, rng)}


def _recolor(pool, style, kind, extra, banned, sprites, rng):  # type: ignore[no-untyped-def]
    for k, word in enumerate(pool):
        for color in rng.sample(list(COLORS), len(COLORS)):
            row = {"object": word, "style": style} | _ground(kind, color, rng) | extra
            if (word, style) not in banned and (word, extra.get("effect")) not in banned and _visible(row, sprites):
                return k, row
    raise RuntimeError("no scene shows this effect")


def _held_out_prompts(sprites: Sprites, rng: random.Random) -> list[Row]:
    rows = [{"object": w, "style": s} | _ground("plain", rng.choice(list(COLORS)), rng) for w, s in held_out()["style"]]
    styles = {w: [s for s in STYLES if [w, s] not in held_out()["style"]] for w in OBJECTS}
    for word, effect in held_out()["effect"]:
        kind = rng.choice(PATTERNS) if effect == "bokeh" else "plain"
        while True:
            ground = _ground(kind, rng.choice(list(COLORS)), rng)
            row = {"object": word, "style": rng.choice(styles[word])} | ground | {"effect": effect}
            if _visible(row, sprites):
                break
        rows.append(row)
    return [{"prompt": words_of(row)} | row for row in rows]
