"""What either road hands back, and how it is found in what a pipeline returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from adjointdpm.errors import NotDifferentiable
from adjointdpm.pipelines.private import Taps

__all__ = ["Counts", "Outcome", "outcome_of"]


class Counts:
    """Live counts of the backward, summed over the `stats` of several replays and solves."""

    def __init__(self, *sources: Any) -> None:
        self.sources = sources

    def __getitem__(self, name: str) -> int:
        """How many "vjps" or "recomputations" there were so far."""
        return sum(int(s.backward().get(name, 0) if hasattr(s, "backward") else getattr(s, name)) for s in self.sources)


@dataclass
class Outcome:
    """Tensors with graph, and counts.

    Attributes:
        image: (B, 3, H, W) in [0, 1].
        unclamped: the same before the clamp, or the image itself where it was not clamped.
        latents: the last latents.
        decoded: as the image processor was given it, or None where the pipeline has none.
        nfe: denoiser calls.
        counts: live counts of the backward.
    """

    image: torch.Tensor
    unclamped: torch.Tensor
    latents: torch.Tensor | None
    decoded: torch.Tensor | None
    nfe: int
    counts: Counts


def outcome_of(result: Any, taps: Taps, nfe: int, counts: Counts) -> Outcome:
    """The image, as the pipeline returned it, and the tensor that it was before its clamp."""
    image = _image(result, taps)
    decoded = torch.cat(taps.decoded) if len(taps.decoded) > 1 else taps.decoded[0] if taps.decoded else None
    candidates: list[torch.Tensor] = []
    if decoded is not None:
        candidates.append(decoded * 0.5 + 0.5 if taps.normalized else decoded)
    elif taps.clamped is not None:
        candidates.append(taps.clamped[0])
    elif taps.stepped is not None:
        candidates.append(taps.stepped / 2 + 0.5)
    same = [c for c in candidates if c.shape == image.shape and torch.equal(c.detach().clamp(0, 1), image.detach())]
    latents = taps.stepped
    if latents is not None and latents.shape[0] == 2 * image.shape[0]:  # guided rows stepped along (DiT)
        latents = latents[: image.shape[0]]
    return Outcome(image, same[0] if same else image, latents, decoded, nfe, counts)


def _image(result: Any, taps: Taps) -> torch.Tensor:
    image = result[0] if isinstance(result, tuple) else result
    if taps.to_numpy is not None and not isinstance(image, torch.Tensor):
        image = taps.to_numpy
        return image.permute(0, 3, 1, 2) if image.ndim == 4 and image.shape[-1] in (1, 3, 4) else image
    if isinstance(image, (list, tuple)) and image and all(isinstance(part, torch.Tensor) for part in image):
        image = torch.stack(list(image))
    if not isinstance(image, torch.Tensor):
        raise NotDifferentiable(
            f"the pipeline returned {type(image).__name__}, not a tensor: its code leaves torch before the end"
        )
    return image
