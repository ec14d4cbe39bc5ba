"""The pictures that the questions hand to the task, drawn anew for each run: masks, a sketch, references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adjointdpm.report import to_pil
from adjointdpm.tasks.guide.objectives import reduced
from adjointdpm.tasks.painter import Painter
from studies.guide.design import Question

__all__ = ["DISC", "draw", "wish_of"]

DISC = (44, 44, 15)  # middle and radius in pixels of a picture of 64
CIRCLE = (28, 34, 20)
HOLE = (16, 16, 48, 48)
REFERENCE_SEED = 7_000


def draw(folder: Path, question: Question, painter: Painter, prompt: str) -> dict[str, Path]:
    """The files of one question for one prompt; references are the model's own pictures, from other noises."""
    found = {}
    for _, value in question.wish:
        if isinstance(value, str) and value.startswith("material:"):
            name = value.removeprefix("material:")
            found[name] = _save(folder / f"{name}.png", name, painter, prompt)
    return found


def _save(path: Path, name: str, painter: Painter, prompt: str) -> Path:
    from PIL import Image, ImageDraw

    path.parent.mkdir(parents=True, exist_ok=True)
    if name in ("reference", "small"):
        image = painter.paint(*painter.encode([prompt]), [REFERENCE_SEED]).image
        to_pil(image if name == "reference" else reduced(image, 8, 8))[0].save(path)
        return path
    side = 64
    sheet = Image.new("L", (side, side), 255 if name in ("frame", "circle") else 0)
    pen = ImageDraw.Draw(sheet)
    if name == "frame":
        left, top, right, bottom = HOLE
        pen.rectangle((left, top, right - 1, bottom - 1), fill=0)
    else:
        x, y, radius = DISC if name == "disc" else CIRCLE
        place = (x - radius, y - radius, x + radius, y + radius)
        if name == "disc":
            pen.ellipse(place, fill=255)
        else:
            pen.ellipse(place, outline=0, width=2)
    sheet.save(path)
    return path


def wish_of(question: Question, files: dict[str, Path]) -> dict[str, Any]:
    """The fields of `GuideConfig`, with files in place of their names."""
    return {
        field: files[value.removeprefix("material:")]
        if isinstance(value, str) and value.startswith("material:")
        else value
        for field, value in question.wish
    }
