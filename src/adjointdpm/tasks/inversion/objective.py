"""L(x*, Φ(x_T, {c, #})) of paper 4.1, over all training pairs, with its gradient to #."""

from __future__ import annotations

import torch
from torch import Tensor

from adjointdpm.losses import Loss, check_value
from adjointdpm.tasks.inversion.images import parts
from adjointdpm.tasks.inversion.painter import Painted, Painter
from adjointdpm.tasks.inversion.spaces import Space

__all__ = ["Objective"]


class Objective:
    """The mean of `loss` over the pairs, `batch_size` of them at a time."""

    def __init__(self, painter: Painter, space: Space, loss: Loss, target: Painted) -> None:
        self.painter, self.space, self.loss, self.target = painter, space, loss, target
        self.prompts = [prompt for prompt, _ in painter.config.pairs]
        self.seeds = [seed for _, seed in painter.config.pairs]
        _, self.negative = painter.encode(self.prompts)

    def backward(self, step: int) -> float:
        """Add the gradient to the embedding's `grad`; returns the loss.  Raises as `losses.check_value`."""
        return self._sum(step, differentiate=True)

    def value(self) -> float:
        """The loss alone."""
        with torch.no_grad():
            return self._sum(None, differentiate=False)

    def paint(self) -> Painted:
        """The images of the pairs with the present embedding."""
        with torch.no_grad():
            embeds = self.space.encode(self.prompts)
        return self.painter.paint(embeds, self.negative, self.seeds)

    def _sum(self, step: int | None, differentiate: bool) -> float:
        total = 0.0
        for part in parts(len(self.seeds), self.painter.config.batch_size):
            chosen = list(part)
            embeds = self.space.encode([self.prompts[i] for i in chosen])
            out = self.painter.generate(embeds, self.negative[chosen], [self.seeds[i] for i in chosen])
            image: Tensor = out.image_unclamped  # the clamped image has no gradient where it is saturated
            value = self.loss(image, self.target.image[chosen].to(image))
            share = len(chosen) / len(self.seeds)
            if differentiate:
                (check_value(value, step) * share).backward()  # type: ignore[no-untyped-call]
            total += float(value.detach()) * share
        return total
