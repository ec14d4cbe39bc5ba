"""The loss of a reward run: minus the mean weighted reward of the step's images, plus what keeps noise typical."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adjointdpm.losses.clamp import clamp_inward
from adjointdpm.runs import RunFolder
from adjointdpm.tasks.images import parts
from adjointdpm.tasks.painter import Painted, Painter
from adjointdpm.tasks.reward.config import Item, RewardConfig
from adjointdpm.tasks.reward.road import shortened
from adjointdpm.tasks.reward.scores import Rewards
from adjointdpm.tasks.reward.subjects import Subject
from adjointdpm.tasks.team import Team
from adjointdpm.tasks.tracking import Tracker

__all__ = ["Objective"]


@dataclass
class _Sums:
    """What a step's images scored in this process: sums over its images, of `count` in all processes."""

    step: int
    count: int
    values: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, scores: Tensor) -> None:
        self.values[name] = self.values.get(name, 0.0) + math.fsum(float(v) for v in scores)


class Objective:
    """Draws, scores and differentiates the images of each step, `batch_size` at a time, this process's share of them.

    Rewards see the picture, which is clamped to [0, 1]; the gradient of a saturated pixel is that of `clamp_inward`.
    """

    def __init__(
        self,
        config: RewardConfig,
        painter: Painter,
        subject: Subject,
        rewards: Rewards,
        team: Team | None = None,
        run: RunFolder | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.config, self.painter, self.subject, self.rewards = config, painter, subject, rewards
        self.team, self.run, self.tracker = team or Team(), run, tracker
        self._generator = painter.generator
        self._pending: _Sums | None = None

    def backward(self, step: int) -> float:
        """Add this process's share of the gradient to the parameters' `grad`; returns its share of the loss."""
        if self.team.size > 1 and self._pending is not None and self._pending.step < step:
            self.log()
        if self.config.gradient == "random_truncation":
            self.painter.generator = shortened(self._generator, self.config, step)
        items = self.config.items(step)
        mine, loss = self.team.mine(items), 0.0
        sums = _Sums(step, len(items))
        for part in parts(len(mine), self.config.batch_size):
            chosen = [mine[i] for i in part]
            value = self._value(chosen, step, sums) / len(items)
            self.painter.backward(value)
            loss += float(value.detach())
        self._pending = sums
        if self.team.size == 1:
            self.log()
        return loss

    def log(self) -> None:
        """Write the rewards of the last step.

        With several processes this exchanges sums, so all of them call it at the same place: between two steps, and
        once at the end; never within a step, which one of them may leave by an exception.
        """
        sums, self._pending = self._pending, None
        if sums is None:
            return
        names = [self.rewards.total_name, *(t.reward for t in self.rewards.terms), *self._watched(), *self._typical()]
        means = {name: self.team.total(sums.values.get(name, 0.0)) / sums.count for name in names}
        if self.run is not None:
            self.run.log.write({"step": sums.step, "rewards": means})
        if self.tracker is not None:
            self.tracker.log(sums.step, means)

    def _watched(self) -> list[str]:
        return [] if self.rewards.watched is None else [self.rewards.watched_name]

    def _typical(self) -> list[str]:
        return ["penalty"] if self.config.penalty else []

    def _value(self, items: Sequence[Item], step: int, sums: _Sums) -> Tensor:
        """The sum of the losses of these images."""
        prompts = [item.prompt for item in items]
        out = self.painter.generate(*self.subject.draw(items))
        picture: Tensor = out.image_unclamped
        images = clamp_inward(picture.to(torch.promote_types(picture.dtype, torch.float32)))
        total, scores = self.rewards.total(images, prompts, step)
        watched = self.rewards.held_out(images, prompts, step)
        penalty = self.subject.penalty(items, step)
        loss = -total.sum()
        sums.add(self.rewards.total_name, total.detach())
        for name, values in scores.items():
            sums.add(name, values)
        if watched is not None:
            sums.add(self.rewards.watched_name, watched)
        if penalty is not None:
            loss = loss + penalty.to(total).sum()
            sums.add("penalty", penalty.detach())
        return loss

    def paint(self, items: Sequence[Item], *, before: bool = False) -> tuple[Painted, Mapping[str, list[float]]]:
        """Images of these pairs with what has been learnt (or `before`), and every score of them.

        The processes share the work, and each of them gets everything.
        """
        mine = self.team.mine(items)
        with self.team.in_step():
            rows = self._painted(mine, before) if mine else []
        everyone = self.team.gather(rows)
        image, shown = (torch.stack(list(column)) for column in zip(*everyone, strict=True))
        scores: dict[str, list[float]] = {}
        device = self.painter.generator.pipe.device
        for part in parts(len(items), self.config.batch_size):
            chosen = list(part)
            found = self.rewards.score(image[chosen].to(device), [items[i].prompt for i in chosen])
            for name, values in found.items():
                scores.setdefault(name, []).extend(values)
        return Painted(image, shown), scores

    def _painted(self, items: Sequence[Item], before: bool) -> list[tuple[Tensor, Tensor]]:
        """Of each item the image as made, and as shown."""
        with torch.no_grad():
            if before:
                with self.subject.untouched():
                    painted = self.painter.paint(*self.subject.before(items))
            else:
                painted = self.painter.paint(*self.subject.draw(items))
        return list(zip(painted.image, painted.shown, strict=True))
