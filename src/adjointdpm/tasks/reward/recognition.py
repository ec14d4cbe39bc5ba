"""The embedded model's classifier and judge as rewards: log p(what the prompt says | image).

"classifier" and "judge" alone look up each prompt's object, and its style if it names one ("flat cat"); with an
argument, as in "classifier=3d whale", every image is scored for that object whatever its prompt says, which is how an
embedding learns a class that the words of the prompt miss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.losses.rewards import Reward
from adjointdpm.losses.rewards.terms import Maker
from adjointdpm.tasks.networks import fit_for

__all__ = ["MAKERS", "Recognised", "named_in"]

SIZE = 64  # pixels that both networks see


class Recognised:
    """`reward(images, prompts)`: (B,) log-probabilities of `network` (of `adjointdpm.zoo`) for what `what` says.

    what: words that name an object and maybe a style, or None for those of each prompt.  Images of another size are
    resampled to 64 × 64.
    """

    def __init__(self, network: Any, what: str | None = None) -> None:
        self.network, self.what = network, what
        if what is not None:
            named_in(what)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen = fit_for(self.network, images)
        if seen.shape[-2:] != (SIZE, SIZE):
            seen = torch.nn.functional.interpolate(
                seen, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True
            )
        scores = self.network(seen)
        texts = [self.what] * len(images) if self.what is not None else list(prompts)
        found = []
        for i, (thing, style) in enumerate(named_in(text) for text in texts):
            drawings = torch.log_softmax(scores.drawings[i].flatten(), dim=0).view(scores.drawings[i].shape)
            found.append(drawings[thing].logsumexp(dim=0) if style is None else drawings[thing, style])
        return torch.stack(found)


def named_in(text: str) -> tuple[int, int | None]:
    """The class numbers of the object and the style that a text names; `InvalidInput` unless it names one object."""
    from adjointdpm.zoo.lexicon import STYLES, objects_in, spoken

    words, things = spoken(text), objects_in(text)
    styles = [k for k, name in enumerate(STYLES) if name in words]
    if len(things) != 1 or len(styles) > 1:
        raise InvalidInput(
            f"{text!r} names {len(things)} objects and {len(styles)} styles that the classifier knows; it needs "
            "one object and at most one style (adjointdpm.zoo.vocabulary() lists them)"
        )
    return things[0], styles[0] if styles else None


def _make(name: str, argument: str | None) -> Reward:
    from adjointdpm import zoo

    return Recognised(zoo.classifier() if name == "classifier" else zoo.judge(), argument)


MAKERS: Mapping[str, Maker] = {name: partial(_make, name) for name in ("classifier", "judge")}
