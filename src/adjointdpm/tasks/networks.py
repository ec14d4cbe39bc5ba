"""Networks that look at images: they follow the images, which come from the generator's device and from the CPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["fit_for"]


def fit_for(network: Any, image: Tensor) -> Tensor:
    """`image` in the number format of `network`, which is moved to the image's device; what is no module stays put."""
    if not isinstance(network, nn.Module):
        return image
    parameter = next(network.to(image.device).parameters(), None)
    return image if parameter is None else image.to(parameter.dtype)
