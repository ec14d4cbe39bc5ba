"""How surely a classifier sees a class: its log-probability, whose gradient does not die as the probability does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["ClassProbability"]


class ClassProbability:
    """`reward(images, prompts)`: log p(class | image), (B,).

    Args:
        logits: images (B, 3, H, W) -> logits (B, C); a network, or any differentiable function.
        target: the class number, or prompts -> one class number for each.
    """

    def __init__(
        self, logits: Callable[[Tensor], Tensor], target: int | Callable[[Sequence[str]], Sequence[int]]
    ) -> None:
        self.logits, self.target = logits, target

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        logits = self.logits(images)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InvalidInput(f"the classifier returned {got}; expected logits of shape ({len(images)}, classes)")
        wanted = [self.target] * len(images) if isinstance(self.target, int) else list(self.target(prompts))
        bad = [number for number in wanted if not 0 <= number < logits.shape[1]]
        if bad:
            raise InvalidInput(f"class {bad[0]} is out of range: the classifier has {logits.shape[1]} classes")
        chosen = torch.tensor(wanted, device=logits.device)[:, None]
        return torch.log_softmax(logits, dim=1).gather(1, chosen)[:, 0]
