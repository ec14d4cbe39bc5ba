"""Images before and after, side by side, with their distances to the style and whether the object is still there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.losses.style import StyleTarget
from adjointdpm.tasks.images import parts
from adjointdpm.tasks.networks import Recognised
from adjointdpm.tasks.painter import Painted, Painter
from adjointdpm.tasks.team import Team

__all__ = ["Change", "Comparison", "distances", "paint_pairs"]

Pair = tuple[str, int]
AT_ONCE = 16  # images in a network that measures


def paint_pairs(painter: Painter, team: Team, pairs: Sequence[Pair]) -> Painted:
    """The images of (prompt, seed) pairs; each process draws its share, and all get all of them."""
    with team.in_step():
        mine = _painted(painter, team.mine(pairs))
    rows = team.gather(mine)
    return Painted(torch.stack([image for image, _ in rows]), torch.stack([shown for _, shown in rows]))


def _painted(painter: Painter, pairs: Sequence[Pair]) -> list[tuple[Tensor, Tensor]]:
    if not pairs:
        return []
    painted = painter.paint(*painter.encode([prompt for prompt, _ in pairs]), [seed for _, seed in pairs])
    return list(zip(painted.image, painted.shown, strict=True))


@torch.no_grad()
def distances(target: StyleTarget, images: Tensor) -> list[float]:
    """Of each image, in parts."""
    found = []
    for part in parts(len(images), AT_ONCE):
        found += [float(d) for d in target.distance(images[part.start : part.stop].to(target.grams[0]))]
    return found


@dataclass(frozen=True)
class Change:
    """A figure of each image before and after."""

    before: Sequence[float]
    after: Sequence[float]

    @property
    def means(self) -> tuple[float, float]:
        return sum(self.before) / len(self.before), sum(self.after) / len(self.after)

    @property
    def drop(self) -> float:
        """1 − mean after / mean before: 1 is the style itself, 0 no change."""
        before, after = self.means
        return 1 - after / max(before, 1e-12)


@dataclass(frozen=True)
class Comparison:
    """The same prompts and noises before and after; `gram` by network.

    `recognised` holds the images whose prompt names an object, and is None where nobody knows the model's objects.
    """

    title: str
    pairs: Sequence[Pair]
    before: Painted
    after: Painted
    gram: Mapping[str, Change]
    recognised: Change | None

    @classmethod
    def of(
        cls,
        title: str,
        pairs: Sequence[Pair],
        before: Painted,
        after: Painted,
        meters: Mapping[str, StyleTarget],
        judge: Recognised | None,
    ) -> Comparison:
        prompts = [prompt for prompt, _ in pairs]

        def change(measured: Callable[[Tensor], Sequence[float]]) -> Change:
            return Change(measured(before.image), measured(after.image))

        gram = {
            name: change(lambda images, target=target: distances(target, images))  # type: ignore[misc]
            for name, target in meters.items()
        }
        seen = None
        if judge is not None:
            seen = change(lambda images: [float(yes) for yes in judge(images, prompts) if yes is not None])
        return cls(title, pairs, before, after, gram, seen)

    def figures(self) -> dict[str, Any]:
        """For the record: by network the mean distance before and after and the drop; the share recognised of images
        whose prompts name an object, and how many these are."""
        found: dict[str, Any] = {"images": len(self.pairs)}
        found["gram"] = {
            name: {"before": change.means[0], "after": change.means[1], "drop": change.drop}
            for name, change in self.gram.items()
        }
        if self.recognised is not None:
            count = len(self.recognised.before)
            before, after = self.recognised.means if count else (None, None)
            found["recognised"] = {"images": count, "before": before, "after": after}
        return found

    def grid(self, most: int) -> tuple[list[str], list[list[Any]], list[str]]:
        """Column heads, rows of pictures and row names of evenly spaced pairs, for reports and sheets."""
        from adjointdpm.report import to_pil

        count = len(self.pairs)
        few = min(most, count)
        chosen = [round(k * (count - 1) / max(1, few - 1)) for k in range(few)]
        heads = [f"{self.pairs[i][0]}, {self.pairs[i][1]}" for i in chosen]
        rows = [to_pil(painted.shown[chosen]) for painted in (self.before, self.after)]
        return heads, rows, ["before", "after"]
