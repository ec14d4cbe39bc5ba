"""Style as Gram matrices and content as feature maps (Gatys et al. 2015, arXiv:1508.06576; the paper, section 4.2).

The Gram matrix of a layer holds the inner products of its channels over all pixels: which features occur together, and
nothing of where.  Both losses are the paper's mean squared errors, divided per layer by the mean square of what they
are compared with: layers and networks of different magnitude then count alike, and the weights of style and content
mean the same with every network.  0 is equality; 1 is what an all-zero feature map would get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.losses.perceptual import FeatureExtractor

__all__ = ["StyleAndContent", "StyleTarget", "Terms", "content_distance", "gram", "gram_distance", "pick"]

TINY = 1e-12


def gram(feature: Tensor) -> Tensor:
    """G = F Fᵀ of feature maps (B, C, H, W), mean over the pixels: (B, C, C).  The image's size drops out."""
    flat = feature.flatten(2)  # (B, C, H W)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def gram_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """One number per image (B,): ‖G − G*‖² / ‖G*‖², mean over layers; `ours` (B, C, C), `theirs` (1 or B, C, C)."""
    return torch.stack([_relative(a, b) for a, b in zip(ours, theirs, strict=True)]).mean(dim=0)


def content_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """One number per image (B,): ‖F − F₀‖² / ‖F₀‖², mean over layers; feature maps (B, C, H, W) of both images."""
    return torch.stack([_relative(a, b) for a, b in zip(ours, theirs, strict=True)]).mean(dim=0)


def _relative(ours: Tensor, theirs: Tensor) -> Tensor:
    squared = (ours - theirs).square().flatten(1).sum(dim=1)
    return squared / theirs.square().flatten(1).sum(dim=1).clamp_min(TINY)


def pick(features: Sequence[Tensor], layers: Sequence[int] | None, default: slice) -> list[Tensor]:
    """The maps that `layers` names (negative numbers count from the deepest), or those of `default`.

    Raises `InvalidInput` naming a layer that the network does not have.
    """
    if layers is None:
        return list(features[default]) or list(features)
    wrong = [layer for layer in layers if not -len(features) <= layer < len(features)]
    if wrong:
        raise InvalidInput(f"there is no layer {wrong[0]}: the network gives {len(features)}, 0 … {len(features) - 1}")
    return [features[layer] for layer in layers]


@dataclass(frozen=True)
class StyleTarget:
    """The Gram matrices of one reference image in one network, and the distance of other images to them.

    `layers` picks from what the network gives, finest first; None takes all but the deepest, whose few large pixels
    say more of objects than of texture.
    """

    extractor: FeatureExtractor
    grams: Sequence[Tensor]
    layers: Sequence[int] | None = None

    @classmethod
    def of(cls, extractor: FeatureExtractor, image: Tensor, layers: Sequence[int] | None = None) -> StyleTarget:
        """The target that `image` (1, 3, H, W) sets; its size need not be that of the images compared with it."""
        with torch.no_grad():
            found = pick(extractor.features(image), layers, slice(None, -1))
            return cls(extractor, [gram(feature) for feature in found], layers)

    def from_features(self, features: Sequence[Tensor]) -> Tensor:
        """Distance (B,) of images whose features in this network are given."""
        return gram_distance([gram(f) for f in pick(features, self.layers, slice(None, -1))], self.grams)

    def distance(self, image: Tensor) -> Tensor:
        """Distance (B,) of images (B, 3, H, W), with a graph if they have one."""
        return self.from_features(self.extractor.features(image))


@dataclass(frozen=True)
class Terms:
    """Style and content distance of each image (B,), unweighted."""

    style: Tensor
    content: Tensor


class StyleAndContent:
    """w_s L_s + w_c L_c of the paper's section 4.2, from one pass through the network where both losses share it.

    Args:
        style: the target's Gram matrices.
        style_weight, content_weight: w_s and w_c.
        content_layers: layers of the content loss; None takes the deepest but one, which still knows where things are.
        content_extractor: network of the content loss; None: that of the style.
    """

    def __init__(
        self,
        style: StyleTarget,
        style_weight: float,
        content_weight: float,
        content_layers: Sequence[int] | None = None,
        content_extractor: FeatureExtractor | None = None,
    ) -> None:
        self.style, self.weights = style, (style_weight, content_weight)
        self.content_layers = content_layers
        self.content_extractor = content_extractor or style.extractor

    def terms(self, image: Tensor, before: Tensor) -> Terms:
        """Both distances; `image` and `before` (the same image without the style): (B, 3, H, W)."""
        if image.shape != before.shape:
            raise InvalidInput(f"the image has shape {tuple(image.shape)}, the one before {tuple(before.shape)}")
        features = list(self.style.extractor.features(image))
        shared = self.content_extractor is self.style.extractor
        content = features if shared else list(self.content_extractor.features(image))
        with torch.no_grad():
            wanted = self._content(self.content_extractor.features(before))
        return Terms(self.style.from_features(features), content_distance(self._content(content), wanted))

    def total(self, terms: Terms) -> Tensor:
        """The weighted sum, mean over the images: a scalar."""
        style_weight, content_weight = self.weights
        return (style_weight * terms.style + content_weight * terms.content).mean()

    def __call__(self, image: Tensor, before: Tensor) -> Tensor:
        return self.total(self.terms(image, before))

    def _content(self, features: Sequence[Tensor]) -> list[Tensor]:
        return pick(features, self.content_layers, slice(-2, -1))
