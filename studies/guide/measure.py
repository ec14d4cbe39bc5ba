"""How an image is judged: one number, more is better, from the picture as it is shown and not from the soft masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adjointdpm.tasks.guide import objectives as ask
from adjointdpm.tasks.guide.inputs import read_mask, read_reference, read_sketch, read_small
from studies.guide.design import Question
from studies.guide.segmentation import boxes, object_pixels

__all__ = ["MEASURES", "measure_of", "pixels_of"]

Measure = Callable[[Tensor], Tensor]  # images (B, 3, H, W) in [0, 1] -> (B,)


@dataclass(frozen=True)
class Meaning:
    """What the number is, for the page."""

    label: str
    digits: int


MEASURES = {
    "iou": Meaning("overlap (IoU) of the object's box with the box asked for", 2),
    "psnr": Meaning("PSNR of the kept region, dB", 1),
    "outline": Meaning("overlap (IoU) of the object's pixels with the mask", 2),
    "size": Meaning("smaller over larger of the share covered and the share asked for", 2),
    "color": Meaning("minus the difference of the object's mean colour, levels of 255", 0),
    "symmetry": Meaning("minus the difference from the mirror image, levels of 255", 1),
    "sketch": Meaning("cosine of the edges with the lines", 2),
    "low_resolution": Meaning("PSNR of the reduced picture, dB", 1),
}


def measure_of(question: Question, wish: Mapping[str, Any]) -> Measure:
    """The measure of a question; `wish` with real files in it."""
    size = (64, 64)

    def shown(images: Tensor) -> Tensor:
        return (images.clamp(0, 1) * 255).round() / 255

    if question.measure == "iou":
        return lambda images: ask.box_iou(torch.tensor(boxes(images)).float(), wish["box"])
    if question.measure == "psnr":
        reference = read_reference(Path(wish["image"]), size)
        keep = read_mask(wish["keep"], size) if "keep" in wish else ask.box_mask(wish["keep_box"], *size)
        return lambda images: ask.psnr(ask.region_loss(shown(images), reference, keep))
    if question.measure == "outline":
        wanted = read_mask(wish["mask"], size)
        return lambda images: ask.mask_iou(pixels_of(images), wanted)
    if question.measure == "size":
        share = wish["size"]
        return lambda images: torch.tensor([_ratio(float(p.mean()), share) for p in pixels_of(images)])
    if question.measure == "color":
        from PIL import ImageColor

        rgb = [value / 255 for value in ImageColor.getrgb(wish["color"])[:3]]
        return lambda images: -ask.color_difference(shown(images), pixels_of(images), rgb)
    if question.measure == "symmetry":
        return lambda images: -ask.asymmetry(shown(images), wish["symmetry"])
    if question.measure == "sketch":
        lines = ask.line_strength(read_sketch(wish["sketch"], size), 1.0)
        return lambda images: ask.sketch_agreement(shown(images), lines, 1.0)
    small = read_small(wish["low_resolution"], size)
    return lambda images: ask.psnr(ask.low_resolution_loss(shown(images), small))


def pixels_of(images: Tensor) -> Tensor:
    """The object's pixels (B, H, W) as 0 and 1."""
    arrays = (images.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return torch.from_numpy(np.stack([object_pixels(image) for image in arrays])).float()


def _ratio(ours: float, wanted: float) -> float:
    return min(ours, wanted) / max(ours, wanted)
