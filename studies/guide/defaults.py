"""What the task reaches by its defaults, beside the noise alone that is optimised from where it is.

python -m studies.guide.defaults      # an hour or less; finished runs are not run again

Boxes and noises are not those of the study, nor are five of the six prompts.  The figures go to `defaults.json`; the
page shows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import adjointdpm as ad
from adjointdpm import zoo
from adjointdpm.runs import atomic_write, load_tensors
from adjointdpm.tasks.guide import objectives as ask
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.inputs import read_mask, read_sketch
from adjointdpm.tasks.guide.run import START_FILE, guide_images
from adjointdpm.zoo.measure import object_recognised
from studies.guide.measure import pixels_of
from studies.guide.segmentation import boxes

__all__ = ["ASKED", "CIRCLES", "DATA", "DISCS", "figures_of", "judged", "measure"]

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "defaults.json"
ASKED = {
    "small flat fox on blue background": (8, 8, 34, 34),
    "small 3d apple on blue background": (0, 0, 32, 32),
    "flat rocket on yellow background": (32, 18, 60, 58),
    "small shaded owl on green background": (34, 30, 60, 56),
    "3d teddy on white background": (4, 22, 34, 58),
    "small flat crown on pink background": (20, 4, 48, 28),
}
DISCS = {"small 3d doughnut on yellow background": (22, 42, 14)}
CIRCLES = {"3d soccer on green background": (36, 30, 19)}
SEEDS, SIDES = (0, 1), (64, 64)
ALONE: dict[str, Any] = {  # without a collage where there was none
    "box": {"optimise": "noise", "lr": 0.05, "candidates": 1, "blend": (), "phrases": (), "recogniser": "none"}
}
ALONE["sketch"] = ALONE["box"]
ALONE["mask"] = ALONE["box"] | {"weights": {"collage": 0.0}}
Place = tuple[int, ...]


def measure(generator: Any, judge: Any, folder: Path, prompt: str, place: Place, **settings: Any) -> dict[str, Any]:
    """Overlaps with a box or a disc, or the agreement with a circle, and recognition of the images of `SEEDS`, before
    and after, and the network calls of each image.
    """
    kind = _kind(prompt)
    wish = {kind: place if kind == "box" else _drawn(folder.parent / f"{kind}.png", kind, place)}
    result = guide_images(GuideConfig(out=folder, prompts=(prompt,), seeds=SEEDS, **wish, **settings), generator)
    used = result.record["results"]
    plain = load_tensors(folder / START_FILE)[0]["plain.image"]
    before, after = (judged(images, judge, prompt, wish[kind]) for images in (plain, result.images))
    calls = used["network_calls"] + used["recomputations"] + used["vjps"]
    return {"plain": before, "guided": after, "calls": calls}


def judged(images: torch.Tensor, judge: Any, prompt: str, wish: Any) -> dict[str, Any]:
    """The measure of each image, and whether the judge sees the prompt's object."""
    kind = _kind(prompt)
    if kind == "box":
        values = ask.box_iou(torch.tensor(boxes(images)).float(), wish)
    elif kind == "mask":
        values = ask.mask_iou(pixels_of(images), read_mask(wish, SIDES))
    else:
        values = ask.sketch_agreement(images, ask.line_strength(read_sketch(wish, SIDES), 1.0), 1.0)
    known = object_recognised(images, [prompt] * len(images), judge).tolist()
    return {"values": [round(float(value), 4) for value in values], "recognised": known}


def _kind(prompt: str) -> str:
    return "mask" if prompt in DISCS else "sketch" if prompt in CIRCLES else "box"


def _drawn(path: Path, kind: str, place: Place) -> Path:
    """A white disc on black, or a black circle on white."""
    from PIL import Image, ImageDraw

    x, y, radius = place
    edges = (x - radius, y - radius, x + radius, y + radius)
    sheet = Image.new("L", SIDES, 0 if kind == "mask" else 255)
    if kind == "mask":
        ImageDraw.Draw(sheet).ellipse(edges, fill=255)
    else:
        ImageDraw.Draw(sheet).ellipse(edges, outline=0, width=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def figures_of(found: dict[str, Any], asked: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Over some prompts: of the unguided images, those from the noise alone, and those by default."""
    parts = [found[prompt] for prompt in asked]
    picked = {"plain": [each["default"]["plain"] for each in parts]}
    picked |= {name: [each[name]["guided"] for each in parts] for name in ("alone", "default")}
    figures: dict[str, dict[str, Any]] = {}
    for name, images in picked.items():
        known = [ok for each in images for ok in each["recognised"]]
        values = np.array([value for each in images for value in each["values"]])
        figures[name] = {"median": np.median(values), "counted": np.median(values * known), "right": sum(known)}
        figures[name] |= {
            "n": len(known),
            "calls": round(np.mean([each.get(name, {}).get("calls", 0) for each in parts])),
        }
    return figures


def main() -> None:
    generator, judge, found = ad.differentiable(zoo.emoji()), zoo.judge(), {}
    for prompt, place in (ASKED | DISCS | CIRCLES).items():
        folder = ROOT / "out" / "guide-defaults" / prompt.replace(" ", "-")
        alone = ALONE[_kind(prompt)]
        found[prompt] = {
            name: measure(generator, judge, folder / name, prompt, place, **settings)
            for name, settings in (("alone", alone), ("default", {}))
        }
        print(prompt, found[prompt])
    atomic_write(DATA, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
