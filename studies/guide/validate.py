"""How good the study's segmentation is: its boxes against the true ones of composed drawings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from adjointdpm.zoo.compose import STEP, Sprites, compose
from adjointdpm.zoo.lexicon import COLORS, SIZES, STYLES
from adjointdpm.zoo.objects import OBJECTS
from adjointdpm.zoo.prompts import scenes_of
from studies.guide.segmentation import boxes

__all__ = ["segmentation_quality"]

COUNT, VISIBLE = 400, 64  # drawings; levels of 255 of a sprite's opacity


def segmentation_quality(sprites: Path, known: Path) -> dict[str, Any] | None:
    """Shares of the overlap (IoU) over drawings on plain backgrounds.

    Needs the drawings (`python -m adjointdpm.zoo.train data`); without them, what `known` holds already.
    """
    if not sprites.exists():
        found = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
        return found.get("segmentation")
    atlas, source = Sprites.load(sprites), torch.Generator().manual_seed(0)

    def draw(high: int) -> list[int]:
        return torch.randint(0, high, (COUNT,), generator=source).tolist()

    objects, styles, colors = draw(len(OBJECTS)), draw(len(STYLES)), draw(len(COLORS))
    moves = torch.randint(-1, 2, (COUNT, 2), generator=source)
    rows = [
        {"object": list(OBJECTS)[o], "style": STYLES[s], "kind": "plain", "color": list(COLORS)[c], "size": "small"}
        for o, s, c in zip(objects, styles, colors, strict=True)
    ]
    images = compose(scenes_of(rows), atlas, source, moves=moves)
    extent = SIZES["small"]
    overlaps = []
    for i, found in enumerate(boxes(images)):
        visible = atlas.by_size[list(SIZES).index("small")][objects[i], styles[i], ..., 3] > VISIBLE
        ys, xs = visible.any(dim=1).nonzero().flatten(), visible.any(dim=0).nonzero().flatten()
        top, left = (int(v) for v in (64 - extent) // 2 + STEP * moves[i])
        true = (left + int(xs[0]), top + int(ys[0]), left + int(xs[-1]) + 1, top + int(ys[-1]) + 1)
        overlaps.append(_iou(found, true))
    quartiles = torch.quantile(torch.tensor(overlaps), torch.tensor([0.05, 0.25, 0.5])).tolist()
    return {
        "drawings": COUNT,
        "median": round(quartiles[2], 3),
        "quarter": round(quartiles[1], 3),
        "twentieth": round(quartiles[0], 3),
    }


def _iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(across, 0) * max(down, 0)
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(area) - both)
