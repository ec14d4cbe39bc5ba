"""The share of the gap closed, over many images, and whether the object is still recognised."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adjointdpm.tasks.inversion.compare import gap_closed


def shares_closed(ours: Tensor, plain: Tensor, true: Tensor, judge: Any) -> dict[str, dict[str, Any]]:
    """Share of the gap closed, as quartiles over the images: in mean squared error, and in the judge's features."""
    closed = {}
    for name, features in (("mse", None), ("features", judge.features)):
        share = gap_closed(ours, plain, true, features).double()
        low, middle, high = torch.quantile(share, torch.tensor([0.25, 0.5, 0.75], dtype=torch.double)).tolist()
        closed[name] = {"median": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}
    return closed


def kept(before: Tensor, after: Tensor) -> dict[str, int]:
    """Of the images recognised before, how many still are."""
    return {"before": int(before.sum()), "after": int((before & after).sum())}
