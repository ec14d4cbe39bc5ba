"""The embedded model's classifier as a term: the object that the prompt names is still what one sees.

The judge stays out of it: it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.networks import fit_for

__all__ = ["EmbeddedRecogniser"]

SIDE = 64  # pixels, what the classifier was trained on


class EmbeddedRecogniser:
    """Cross-entropy of the prompt's object under `network`, which returns scores with `objects` (B, n)."""

    def __init__(self, network: Callable[[Tensor], Any], prompts: Sequence[str]) -> None:
        from adjointdpm.zoo.lexicon import objects_in

        self.network = network
        self.label: dict[str, int] = {}
        for prompt in prompts:
            known = objects_in(prompt)
            if not known:
                raise InvalidInput(
                    f"recogniser 'embedded' knows no object in the prompt {prompt!r}; "
                    "leave the recogniser out, or give 'module:function'"
                )
            self.label[prompt] = known[0]

    def _logits(self, image: Tensor) -> Tensor:
        if image.shape[-2:] != (SIDE, SIDE):
            image = F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        logits: Tensor = self.network(fit_for(self.network, image)).objects
        return logits

    def _labels(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        return torch.tensor([self.label[prompt] for prompt in prompts], device=device)

    def loss(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,), in nats."""
        return F.cross_entropy(self._logits(image), self._labels(prompts, image.device), reduction="none")

    def probability(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Of the prompt's object, (B,)."""
        return (-self.loss(image, prompts)).exp()
