"""Distances to the true effect, the share of the gap closed, and whether the object is still recognised."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adjointdpm.losses import feature_distance


def distances(images: Tensor, true: Tensor, judge: Any) -> dict[str, Tensor]:
    """Per image (B,): mean squared error, and distance in the judge's features (never optimised against)."""
    with torch.no_grad():
        features = feature_distance(judge.features(images), judge.features(true))
    return {"mse": (images - true).square().flatten(1).mean(dim=1), "features": features}


def gap_closed(ours: dict[str, Tensor], plain: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """1 − d(ours) / d(plain), per image, as quartiles over the images, for each distance."""
    closed = {}
    for name, distance in ours.items():
        share = 1 - distance / plain[name].clamp_min(1e-12)
        low, middle, high = torch.quantile(share.double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.double)).tolist()
        closed[name] = {"median": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}
    return closed


def kept(before: Tensor, after: Tensor) -> dict[str, int]:
    """Of the images recognised before, how many still are."""
    return {"before": int(before.sum()), "after": int((before & after).sum())}
