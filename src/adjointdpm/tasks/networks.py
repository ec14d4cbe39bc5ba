"""Networks that look at images, and which model made them.

They follow the images, which come from the generator's device and from the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

__all__ = ["fit_for", "is_embedded"]


def fit_for(network: Any, image: Tensor) -> Tensor:
    """`image` in the number format of `network`, which is moved to the image's device; what is no module stays put."""
    if not isinstance(network, nn.Module):
        return image
    parameter = next(network.to(image.device).parameters(), None)
    return image if parameter is None else image.to(parameter.dtype)


def is_embedded(pipe: Any) -> bool:
    """Whether this is the model that the package ships, whose words and networks are known."""
    from adjointdpm import zoo

    loaded_from = getattr(pipe, "config", {}).get("_name_or_path") or ""
    return bool(loaded_from) and Path(str(loaded_from)).resolve() == zoo.emoji_folder().resolve()
