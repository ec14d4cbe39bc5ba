"""Where the object stands: its bounding box, or its whole outline.

A box says nothing about the pixels inside it, since few objects fill one.  So `box_loss` compares the mask's two
projections (its maximum over each column and over each row) with the box's, as BoxInst does (Tian et al. 2021,
arXiv:2012.02310); a mask fits a box exactly if both projections do.  A projection only sees the object where it is;
the distance of the centre of mass pulls an object that is far away.  `mask_loss` compares every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Box", "bounding_boxes", "box_iou", "box_loss", "box_mask", "center", "mask_iou", "mask_loss"]

Box = Sequence[float]  # left, top, right, bottom in pixels; right and bottom are the first ones outside
POWER = 8  # of the mean that stands for the maximum: smooth, and near it for an object of a few pixels already
PULL = 4.0  # of the squared distance of the centres, in image sides
TINY = 1e-6


def box_mask(box: Box, height: int, width: int) -> Tensor:
    """The share of each pixel that the box covers, (H, W)."""
    left, top, right, bottom = box
    x, y = torch.arange(float(width)), torch.arange(float(height))
    across = (torch.clamp(x + 1, max=right) - torch.clamp(x, min=left)).clamp(0, 1)
    down = (torch.clamp(y + 1, max=bottom) - torch.clamp(y, min=top)).clamp(0, 1)
    return down[:, None] * across[None, :]


def _dice(ours: Tensor, wanted: Tensor) -> Tensor:
    """1 - 2 sum(ab) / (sum(a^2) + sum(b^2)) over the last dimension: 0 where equal, 1 where apart."""
    both = (ours * wanted).sum(dim=-1)
    return 1 - 2 * both / (ours.square().sum(dim=-1) + wanted.square().sum(dim=-1) + TINY)


def _maximum(mask: Tensor, dim: int) -> Tensor:
    return (mask.pow(POWER).mean(dim=dim) + TINY).pow(1 / POWER)


def center(mask: Tensor) -> Tensor:
    """Centre of mass in image sides, (B, 2) as x, y."""
    height, width = mask.shape[-2:]
    x = (torch.arange(width, device=mask.device, dtype=mask.dtype) + 0.5) / width
    y = (torch.arange(height, device=mask.device, dtype=mask.dtype) + 0.5) / height
    total = mask.sum(dim=(-2, -1)).clamp_min(TINY)
    return torch.stack([(mask * x).sum(dim=(-2, -1)) / total, (mask * y[:, None]).sum(dim=(-2, -1)) / total], dim=-1)


def _pull(mask: Tensor, wanted: Tensor) -> Tensor:
    return (center(mask) - center(wanted)).square().sum(dim=-1)


def box_loss(mask: Tensor, box: Box, pull: float = PULL) -> Tensor:
    """(B,): both projections' mismatch with those of the box, and `pull` times the centres' squared distance."""
    wanted = box_mask(box, *mask.shape[-2:]).to(mask)
    fit = sum((_dice(_maximum(mask, dim), wanted.amax(dim=dim)) for dim in (-2, -1)), start=mask.new_zeros(()))
    return fit / 2 + pull * _pull(mask, wanted)


def mask_loss(mask: Tensor, wanted: Tensor, pull: float = PULL) -> Tensor:
    """(B,): mismatch with the outline `wanted` (H, W), pixel by pixel, and the pull of the centres."""
    wanted = wanted.to(mask)
    return _dice(mask.flatten(1), wanted.flatten()) + pull * _pull(mask, wanted)


def bounding_boxes(mask: Tensor, threshold: float = 0.5) -> Tensor:
    """Boxes (B, 4) around the pixels above `threshold`; all zero where there is none.  No gradient."""
    found = mask.detach() > threshold
    boxes = []
    for each in found:
        rows, columns = each.any(dim=1).nonzero().flatten(), each.any(dim=0).nonzero().flatten()
        edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
        boxes.append([float(edge) for edge in edges])
    return torch.tensor(boxes)


def box_iou(boxes: Tensor, box: Box) -> Tensor:
    """Intersection over union of boxes (B, 4) with one box, (B,)."""
    left, top, right, bottom = box
    across = (boxes[:, 2].clamp(max=right) - boxes[:, 0].clamp(min=left)).clamp(min=0)
    down = (boxes[:, 3].clamp(max=bottom) - boxes[:, 1].clamp(min=top)).clamp(min=0)
    both = across * down
    ours = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return both / (ours + (right - left) * (bottom - top) - both)


def mask_iou(mask: Tensor, wanted: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the pixels above `threshold` with those of `wanted` (H, W), (B,).  No gradient."""
    ours, theirs = mask.detach() > threshold, wanted.to(mask) > 0.5
    both = (ours & theirs).sum(dim=(-2, -1)).float()
    return both / (ours | theirs).sum(dim=(-2, -1)).clamp_min(1)
