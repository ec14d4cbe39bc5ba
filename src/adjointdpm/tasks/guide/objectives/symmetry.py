"""The picture equals its mirror image."""

from __future__ import annotations

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["SYMMETRIES", "asymmetry", "symmetry_loss"]

SYMMETRIES: dict[str, tuple[tuple[int, ...], ...]] = {
    "left-right": ((-1,),),
    "top-bottom": ((-2,),),
    "both": ((-1,), (-2,)),
    "half-turn": ((-2, -1),),
}


def symmetry_loss(image: Tensor, kind: str) -> Tensor:
    """(B,): mean squared difference from the mirrored image, mean over the mirrors of `kind` (see `SYMMETRIES`)."""
    if kind not in SYMMETRIES:
        raise InvalidInput(f"symmetry {kind!r}; expected one of {', '.join(SYMMETRIES)}")
    parts = [(image - image.flip(axes)).square().mean(dim=(1, 2, 3)) for axes in SYMMETRIES[kind]]
    return torch.stack(parts).mean(dim=0)


def asymmetry(image: Tensor, kind: str) -> Tensor:
    """Root mean square difference from the mirrored image in levels of 255, (B,)."""
    return 255 * symmetry_loss(image, kind).sqrt()
