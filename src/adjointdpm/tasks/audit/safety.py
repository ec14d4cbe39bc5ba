"""diffusers' `StableDiffusionSafetyChecker` as a differentiable function with the same verdict.

The class's own forward runs under no_grad, leaves torch for numpy and compares rounded numbers in Python loops, so no
gradient can be taken through it.  This is the same computation in torch on the class's own weights: cosines of the
image's embedding with the concepts, minus their thresholds, plus 0.01 once a `special_care` concept has triggered,
rounded to three digits, flagged where that is above 0.  Scores carry a graph; the verdict is taken from them rounded.

What is optimised are the ordinary concepts' scores alone, never `special_care`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["ADJUSTMENT", "SafetyScores", "clip_input"]

ADJUSTMENT = 0.01  # added to all later scores once a special_care concept has triggered
DIGITS = 1000.0  # the class rounds to three digits
PARTS = ("vision_model", "visual_projection", "concept_embeds", "special_care_embeds")


def rounded(scores: Tensor) -> Tensor:
    """To three digits, half to even, as NumPy's round."""
    return torch.round(scores * DIGITS) / DIGITS


class SafetyScores:
    """(B, 3, h, w) of the feature extractor -> scores of concepts (B, C) and of special_care (B, S).

    Args:
        checker: a `StableDiffusionSafetyChecker`; its weights are used as they are.
    """

    def __init__(self, checker: Any) -> None:
        missing = [part for part in PARTS if not hasattr(checker, part)]
        if missing:
            raise InvalidInput(
                f"{type(checker).__name__} has no {', '.join(missing)}; expected a StableDiffusionSafetyChecker"
            )
        self.checker = checker

    def embed(self, pixels: Tensor) -> Tensor:
        """(B, D) of the vision model, projected."""
        pooled = self.checker.vision_model(pixels)[1]
        return self.checker.visual_projection(pooled)  # type: ignore[no-any-return]

    def scores(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine minus threshold: of the concepts, with a graph, and of special_care, without; float32."""
        embedding = F.normalize(self.embed(pixels))
        return self._against(embedding, "concept_embeds"), self._against(embedding, "special_care_embeds").detach()

    def special_scores(self, pixels: Tensor) -> Tensor:
        """Those of special_care (B, S) with a graph: for hardening, which holds them where they are."""
        return self._against(F.normalize(self.embed(pixels)), "special_care_embeds")

    def _against(self, embedding: Tensor, name: str) -> Tensor:
        embeds, thresholds = getattr(self.checker, name), getattr(self.checker, f"{name}_weights")
        scores: Tensor = (embedding @ F.normalize(embeds).t()).float() - thresholds.float()
        return scores

    @staticmethod
    def special_care(special: Tensor) -> Tensor:
        """(B,) whether any special_care concept triggers; a first one makes the later ones more sensitive."""
        triggered = torch.zeros(len(special), dtype=torch.bool, device=special.device)
        for k in range(special.shape[1]):
            triggered = triggered | (rounded(special[:, k] + ADJUSTMENT * triggered) > 0)
        return triggered

    def flagged(self, concepts: Tensor, special: Tensor) -> Tensor:
        """(B, C) which concepts flag the image: the class's `bad_concepts`."""
        adjustment = ADJUSTMENT * self.special_care(special).to(concepts.dtype)
        return rounded(concepts.detach() + adjustment[:, None]) > 0


def clip_input(images: Tensor, extractor: Any) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] as the pipeline's feature extractor would hand them on, with a graph.

    Args:
        images: as the pipeline made them.
        extractor: a CLIP image processor, whose sizes, mean and deviation are read; it works on 8-bit PIL pictures,
            this on floats, so values differ by its rounding.
    """
    size = extractor.size
    edge = size["shortest_edge"] if "shortest_edge" in size else min(size["height"], size["width"])
    short = min(images.shape[-2:])
    sizes = [int(int(edge) * side / short) for side in images.shape[-2:]]
    x = F.interpolate(images, size=sizes, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    crop = extractor.crop_size
    top, left = (x.shape[-2] - crop["height"]) // 2, (x.shape[-1] - crop["width"]) // 2
    x = x[..., top : top + crop["height"], left : left + crop["width"]]
    mean, std = (
        torch.tensor(v, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
        for v in (extractor.image_mean, extractor.image_std)
    )
    return (x - mean) / std
