"""The rewards of a run: the weighted sum that is optimised, the one that only watches, and what became of both."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.losses.rewards import Reward, Term, check_reward, check_scores, load_reward, read_term
from adjointdpm.losses.users import trial
from adjointdpm.tasks.reward.config import RewardConfig
from adjointdpm.tasks.reward.recognition import MAKERS, named_in

__all__ = ["Change", "Rewards", "mean_interval", "verdict"]

#: 97.5 % quantiles of Student's t by degrees of freedom 1, 2, …, and of the normal distribution.
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NORMAL = 1.960


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; the interval of a single value is unbounded."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, -math.inf, math.inf
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = (STUDENT[n - 2] if n - 1 <= len(STUDENT) else NORMAL) * math.sqrt(variance / n)
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class Change:
    """One reward on the same images before and after: a score for each image."""

    name: str
    before: Sequence[float]
    after: Sequence[float]

    def as_dict(self) -> dict[str, Any]:
        difference, low, high = mean_interval([b - a for a, b in zip(self.before, self.after, strict=True)])
        return {
            "before": math.fsum(self.before) / len(self.before),
            "after": math.fsum(self.after) / len(self.after),
            "difference": difference,
            "interval": [low, high] if math.isfinite(low) else None,
            "images": len(self.before),
        }


def verdict(total: Change, held_out: Change | None) -> str:
    """Whether the rise of the optimised reward is to be believed.

    "no held-out reward"; "hacked": it rose and the held-out one fell, its 95 % interval below zero; "confirmed":
    the held-out one rose likewise; "undecided": anything between, and always of a single image.
    """
    if held_out is None:
        return "no held-out reward"
    low, high = held_out.as_dict()["interval"] or (-math.inf, math.inf)
    if total.as_dict()["difference"] > 0 and high < 0:
        return "hacked"
    return "confirmed" if low > 0 else "undecided"


@dataclass
class Rewards:
    """What `config.rewards` and `config.held_out` mean for one generator; `total_name` is what is optimised."""

    terms: Sequence[Term]
    functions: Sequence[Reward]
    watched: Term | None
    watcher: Reward | None
    total_name: ClassVar[str] = "reward"

    @classmethod
    def of(cls, config: RewardConfig, embedded: bool) -> Rewards:
        """Loads them; the judge may watch images of the `embedded` model.  Raises `InvalidInput`."""
        terms = config.terms
        watched = config.watched if config.held_out is not None else _judge_for(config) if embedded else None
        functions = [load_reward(term, MAKERS) for term in terms]
        return cls(terms, functions, watched, None if watched is None else load_reward(watched, MAKERS))

    @trial()
    def try_out(self, images: Tensor, prompts: Sequence[str], later: Iterable[Sequence[str]] = ()) -> None:
        """Call each on (B, 3, H, W), and on one of them under the prompts of batches that are to come `later`.

        Raises as `losses.rewards.check_reward`, before any work is done.
        """
        for term, function in zip(self.terms, self.functions, strict=True):
            check_reward(function, term.reward, images, prompts)
        self.held_out(images, prompts)
        known, sizes = set(prompts), {len(prompts)}
        for batch in later:
            if not known.issuperset(batch) or len(batch) not in sizes:
                self.score(images[:1].expand(len(batch), -1, -1, -1), batch)
                known.update(batch)
                sizes.add(len(batch))

    def total(
        self, images: Tensor, prompts: Sequence[str], step: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum (B,), and each reward's own scores without a graph."""
        weighted, parts = [], {}
        for term, function in zip(self.terms, self.functions, strict=True):
            found = check_scores(
                function(images, prompts), len(images), term.reward, step, differentiable=torch.is_grad_enabled()
            )
            weighted.append(term.weight * found)
            parts[term.reward] = found.detach()
        return torch.stack(weighted).sum(dim=0), parts

    def held_out(self, images: Tensor, prompts: Sequence[str], step: int | None = None) -> Tensor | None:
        """The held-out scores (B,), without a graph; None if there is no such reward."""
        if self.watcher is None or self.watched is None:
            return None
        with torch.no_grad():
            found = self.watcher(images.detach(), prompts)
            return self.watched.weight * check_scores(found, len(images), self.watched.reward, step, False).detach()

    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, list[float]]:
        """Every score of images (B, 3, H, W): `total_name`, each reward by name, and the held-out one if any."""
        with torch.no_grad():
            total, parts = self.total(images, prompts)
            watched = self.held_out(images, prompts)
        found: Mapping[str, Tensor] = {self.total_name: total, **parts}
        scores = {name: [float(v) for v in values] for name, values in found.items()}
        if watched is not None:
            scores[self.watched_name] = [float(v) for v in watched]
        return scores

    @property
    def watched_name(self) -> str:
        return "" if self.watched is None else f"held out: {self.watched.text}"


def _judge_for(config: RewardConfig) -> Term | None:
    """The judge, where there is one object to look for in each image.

    Where the classifier is asked for one object whatever the prompt says, so is the judge.
    """
    if any(term.name == "judge" for term in config.terms):
        return None
    asked = next((term.argument for term in config.terms if term.name == "classifier" and term.argument), None)
    if asked is not None:
        return read_term(f"judge={asked}")
    try:
        for prompt, _ in (*config.pairs, *config.unseen):
            named_in(prompt)
    except InvalidInput as error:
        warnings.warn(f"no held-out reward: the judge cannot watch, as {error}", InputWarning, stacklevel=2)
        return None
    return read_term("judge")
