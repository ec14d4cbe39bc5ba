"""The paper's section 4.2: the mean over pairs of w_s L_s(G_style, G(Φ)) + w_c L_c(F_initial, F(Φ)), with its gradient.

`F_initial` are the features of each pair's image before anything was tuned, so every pair's image before is kept.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.losses import check_value
from adjointdpm.losses.style import StyleAndContent
from adjointdpm.runs.log import JsonlLog, NoLog
from adjointdpm.tasks.images import parts
from adjointdpm.tasks.painter import Painter
from adjointdpm.tasks.stylize.config import StylizeConfig
from adjointdpm.tasks.stylize.networks import wide
from adjointdpm.tasks.team import Team

__all__ = ["Objective", "turn"]


def turn(step: int, count: int, together: int) -> list[int]:
    """The pairs of step 1 …: the next few of a random order that is drawn anew once all `count` had their turn.

    It depends on the step alone, so a resumed run goes on as it would have.
    """
    places = range((step - 1) * together, step * together)
    orders = {k: random.Random(k).sample(range(count), count) for k in {place // count for place in places}}
    return sorted(orders[place // count][place % count] for place in places)


@dataclass
class Objective:
    """The loss over the pairs of a step, `batch_size` images at a time, each process its share of them.

    `before` (P, 3, H, W) are the pairs' images without the style.  `log` gets both distances of each step,
    unweighted, and how often networks were run for it: forwards (recomputed ones included) and VJPs times images.
    """

    painter: Painter
    config: StylizeConfig
    loss: StyleAndContent
    before: Tensor
    team: Team
    log: JsonlLog | NoLog

    def __post_init__(self) -> None:
        prompts = list(dict.fromkeys(self.config.prompts))
        embeds, negative = self.painter.encode(prompts)
        self._embeds = dict(zip(prompts, embeds, strict=True))
        self._negative = negative[:1]

    def backward(self, step: int) -> float:
        """Add this process's share of the gradient; returns its share of the loss.  Raises as `check_value`."""
        chosen = turn(step, len(self.config.pairs), self.config.together)
        with self.team.in_step():
            shares = self._shares(self.team.mine(chosen), len(chosen), step)
        row = {name: self.team.total(shares[name]) for name in ("style", "content", "forwards", "vjps")}
        self.log.write({"step": step, **row})
        return shares["loss"]

    def _shares(self, mine: Sequence[int], count: int, step: int) -> dict[str, float]:
        """Of these of the `count` pairs of a step: shares of the means, and network evaluations of single images."""
        sums = dict.fromkeys(("loss", "style", "content", "forwards", "vjps"), 0.0)
        for part in parts(len(mine), self.config.batch_size):
            indices = [mine[i] for i in part]
            out = self._generate(indices)
            image = out.image_unclamped  # the clamped image has no gradient where it is saturated
            image = image.to(wide(image.dtype))
            terms = self.loss.terms(image, self.before[indices].to(image))
            value = check_value(self.loss.total(terms), step)
            share = len(indices) / count
            self.painter.backward(value * share)
            for name, term in (("loss", value), ("style", terms.style), ("content", terms.content)):
                sums[name] += float(term.detach().mean()) * share
            sums["forwards"] += (out.stats.nfe + out.stats.recomputations) * len(indices)
            sums["vjps"] += out.stats.vjps * len(indices)
        return sums

    def _generate(self, indices: Sequence[int]) -> Any:
        pairs = [self.config.pairs[i] for i in indices]
        embeds = torch.stack([self._embeds[prompt] for prompt, _ in pairs])
        negative = self._negative.expand(len(pairs), -1, -1)
        return self.painter.generate(embeds, negative, [seed for _, seed in pairs])
