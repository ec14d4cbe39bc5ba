"""Networks that look at images, and which model made them.

They follow the images, which come from the generator's device and from the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

__all__ = ["Recognised", "fit_for", "is_embedded", "object_judge"]

#: Images (B, 3, H, W) and prompts -> of each image whether it shows the prompt's object; None for prompts of none.
Recognised = Callable[[Tensor, Sequence[str]], "list[bool | None]"]


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


def object_judge(pipe: Any) -> Recognised | None:
    """Says whether images still show what their prompts name; None for models whose objects nobody here knows."""
    if not is_embedded(pipe):
        return None
    from adjointdpm import zoo
    from adjointdpm.zoo.lexicon import objects_in
    from adjointdpm.zoo.measure import object_recognised

    judge = zoo.judge()

    def recognised(images: Tensor, prompts: Sequence[str]) -> list[bool | None]:
        found: list[bool | None] = [None] * len(prompts)
        known = [i for i, prompt in enumerate(prompts) if objects_in(prompt)]
        if known:
            seen = object_recognised(images[known], [prompts[i] for i in known], judge).tolist()
            for i, yes in zip(known, seen, strict=True):
                found[i] = yes
        return found

    return recognised
