"""Distance between images in the features of a network.

Any object with `features(image) -> list of (B, C, H, W)` serves, such as the embedded model's classifier.  As in LPIPS
(Zhang et al. 2018, arXiv:1801.03924) each pixel's feature vector is scaled to length 1 before the difference is
squared, so that layers of different magnitude count alike; unlike there, layers and channels have no learnt weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["FeatureExtractor", "Perceptual", "feature_distance"]


class FeatureExtractor(Protocol):
    """What `Perceptual` needs of a network."""

    def features(self, image: Tensor) -> list[Tensor]: ...


def _unit(feature: Tensor) -> Tensor:
    """Scale each pixel's feature vector (dim 1) to length 1; the small constant keeps the root's gradient finite."""
    return feature * torch.rsqrt(feature.square().sum(dim=1, keepdim=True) + 1e-6)


def feature_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """One number per image (B,): squared difference of unit features, mean over pixels, mean over layers."""
    layers = [
        (_unit(a) - _unit(b)).square().sum(dim=1).flatten(1).mean(dim=1) for a, b in zip(ours, theirs, strict=True)
    ]
    return torch.stack(layers).mean(dim=0)


class Perceptual:
    """`Perceptual(extractor)(image, target)`: mean feature distance, plus `pixels` times the mean squared error.

    `layers` picks from the list that the extractor returns (None: all).  The pixel term matters for effects on colour,
    to which the deep layers of a classifier are nearly blind on purpose.
    """

    def __init__(self, extractor: FeatureExtractor, layers: Sequence[int] | None = None, pixels: float = 0.0) -> None:
        if not callable(getattr(extractor, "features", None)):
            raise InvalidInput(
                f"{type(extractor).__name__} has no method features(image) -> list of tensors; "
                "wrap the network in an object that has one"
            )
        self.extractor = extractor
        self.layers = None if layers is None else list(layers)
        self.pixels = pixels

    def __call__(self, image: Tensor, target: Tensor) -> Tensor:
        if image.shape != target.shape:
            raise InvalidInput(f"the image has shape {tuple(image.shape)}, its target {tuple(target.shape)}")
        with torch.no_grad():
            wanted = self._pick(target)
        loss = feature_distance(self._pick(image), wanted).mean()
        return loss + self.pixels * (image - target).square().mean() if self.pixels else loss

    def _pick(self, image: Tensor) -> list[Tensor]:
        found = list(self.extractor.features(image))
        return found if self.layers is None else [found[layer] for layer in self.layers]
