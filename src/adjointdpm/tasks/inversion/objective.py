"""L(x*, Φ(x_T, {c, #})) of paper 4.1, over all training pairs, with its gradient to #."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from adjointdpm.losses import Loss, check_value
from adjointdpm.tasks.images import parts
from adjointdpm.tasks.inversion.painter import Painted, Painter
from adjointdpm.tasks.inversion.spaces import Space
from adjointdpm.tasks.team import Team

__all__ = ["Objective"]


class Objective:
    """The mean of `loss` over the pairs, or in a step over `pairs_per_step` of them; `batch_size` at a time.

    Each process of `team` computes its share of it.
    """

    def __init__(self, painter: Painter, space: Space, loss: Loss, target: Painted, team: Team | None = None) -> None:
        self.painter, self.space, self.loss, self.target = painter, space, loss, target
        self.team = team or Team()
        self.prompts = [prompt for prompt, _ in painter.config.pairs]
        self.seeds = [seed for _, seed in painter.config.pairs]
        _, self.negative = painter.encode(self.prompts)

    def backward(self, step: int) -> float:
        """Add this process's share of the gradient to the embedding's `grad`; returns its share of the loss.

        Raises as `losses.check_value`.
        """
        return self._sum(self.turn(step), step)

    def value(self) -> float:
        """The loss alone."""
        with torch.no_grad():
            return self.team.total(self._sum(list(range(len(self.seeds)))))

    def paint(self) -> Painted:
        """The images of the pairs with the present embedding."""
        with torch.no_grad():
            embeds = self.space.encode(self.prompts)
        return self.painter.paint(embeds, self.negative, self.seeds)

    def turn(self, step: int) -> list[int]:
        """The pairs of step 1 …: all, or the next few of a random order that is drawn anew once all had their turn."""
        count = len(self.seeds)
        few = self.painter.config.pairs_per_step or count
        places = range((step - 1) * few, step * few)
        orders = {k: random.Random(k).sample(range(count), count) for k in {place // count for place in places}}
        return sorted(orders[place // count][place % count] for place in places)

    def _sum(self, pairs: list[int], step: int | None = None) -> float:
        total, mine = 0.0, self.team.mine(pairs)
        for part in parts(len(mine), self.painter.config.batch_size):
            chosen = [mine[i] for i in part]
            embeds = self.space.encode([self.prompts[i] for i in chosen])
            out = self.painter.generate(embeds, self.negative[chosen], [self.seeds[i] for i in chosen])
            image: Tensor = out.image_unclamped  # the clamped image has no gradient where it is saturated
            value = self.loss(image, self.target.image[chosen].to(image))
            share = len(chosen) / len(pairs)
            if torch.is_grad_enabled():
                self.painter.backward(check_value(value, step) * share)
            total += float(value.detach()) * share
        return total
