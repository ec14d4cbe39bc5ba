"""One optimisation for a given time, by one method; and what it has reached, by the sampler without a gradient.

The time is the process's own on one thread, which is the wall time of an undisturbed core: other work on the machine
favours no method.

The objective is the task's own.  AdamW's rate falls to 0 with the time that is left.  All methods run the same sampler,
Euler in the exponential form on the scheduler's times (= DDIM), and only the gradient differs.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import NumericalWarning
from adjointdpm.losses.typicality import concentration_penalty
from adjointdpm.tasks import RewardConfig
from adjointdpm.tasks.painter import Painted
from adjointdpm.tasks.reward.config import Item
from adjointdpm.tasks.reward.objective import Objective
from adjointdpm.tasks.reward.road import generator_for
from adjointdpm.tasks.reward.scores import Rewards
from adjointdpm.tasks.reward.subjects import Subject, subject_of
from adjointdpm.zoo.measure import object_recognised
from studies.reward.design import GUIDANCE, PAIRS_PER_STEP, RANK, Goal, Plan

__all__ = ["Reached", "run"]

BATCH = 24  # images at once; a step's are fewer


@dataclass
class Reached:
    """Scores before and after of the same images (reward and held-out), the images, and what the time bought."""

    prompts: list[str]
    before: dict[str, list[float]]
    after: dict[str, list[float]]
    images: Tensor
    start: Tensor
    updates: int
    seconds: float
    penalty: list[float] | None
    recognised: dict[str, list[bool]]  # whether the judge's first guess is the object, before and after
    seen: dict[str, list[float]] | None = None  # weights: the prompts that were trained on, with other noises


def run(
    generator: Any, judge: Any, goal: Goal, part: str, method: str, rate: float, seed: int, seconds: float, plan: Plan
) -> Reached:
    """Optimise the weights or the noise (`part`) for `goal`; the images judged are unseen ones for the weights."""
    common = {
        "out": Path("unused"), "rewards": (goal.reward,), "held_out": goal.held_out, "steps": plan.steps,
        "guidance_scale": GUIDANCE, "gradient": None if method == "best_of" else method, "lr": rate, "epochs": 1,
        "batch_size": BATCH, "init_seed": seed,
    }  # fmt: skip
    if part == "weights":
        config = RewardConfig(
            **common, optimise="weights", prompts=goal.train, seeds=(0,), rank=RANK, pairs_per_step=PAIRS_PER_STEP
        )
        judged = [Item(0, prompt, s) for prompt in goal.test for s in plan.test_seeds]
    else:
        config = RewardConfig(**common, optimise="noise", prompts=goal.noise, seeds=(1000 * (seed + 1),))
        judged = [Item(place, prompt, s) for place, (prompt, s) in enumerate(config.pairs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)  # that a gradient is biased is what is studied
        with subject_of(_same_sampler(generator, config), config) as (subject, painter):
            objective = Objective(config, painter, subject, Rewards.of(config, embedded=True))
            start, before = _judge(objective, judged, before=True)
            if method == "best_of":
                updates, spent = _best_of(objective, subject, judged, seconds)
            else:
                updates, spent = _descend(objective, subject, rate, seconds)
            end, after = _judge(objective, judged)
            seen = None
            if part == "weights":
                seen = _judge(objective, [Item(0, prompt, plan.test_seeds[0]) for prompt in goal.train])[1]
            penalty = None
            if part == "noise":
                penalty = concentration_penalty(subject.parameters["noise"].detach()).tolist()
    prompts = [item.prompt for item in judged]
    pictures = {"before": start.image, "after": end.image}
    recognised = {name: object_recognised(image, prompts, judge).tolist() for name, image in pictures.items()}
    return Reached(prompts, before, after, end.image, start.image, updates, spent, penalty, recognised, seen)


def _same_sampler(generator: Any, config: RewardConfig) -> Any:
    """The sampler of the cheaper gradients, for the exact one too."""
    ode = generator_for(generator, config.model_copy(update={"gradient": "one_step"}))
    return generator_for(ode, config) if config.gradient is not None else ode.with_(gradient="exact")


def _judge(objective: Objective, items: list[Item], before: bool = False) -> tuple[Painted, dict[str, list[float]]]:
    """Images and their scores: "reward" and "held out"."""
    painted, scores = objective.paint(items, before=before)
    rewards = objective.rewards
    return painted, {"reward": list(scores[rewards.total_name]), "held out": list(scores[rewards.watched_name])}


def _descend(objective: Objective, subject: Subject, rate: float, seconds: float) -> tuple[int, float]:
    """AdamW until the time is up; no step begins that would end later than half a step beyond it."""
    optimizer = torch.optim.AdamW(subject.parameters.values(), lr=rate, weight_decay=0.0)
    step, took, began = 0, 0.0, time.process_time()
    while (spent := time.process_time() - began) + took / 2 < seconds or step == 0:
        step += 1
        optimizer.param_groups[0]["lr"] = rate * (1 - min(spent / seconds, 1))
        optimizer.zero_grad(set_to_none=True)
        objective.backward(step)
        optimizer.step()
        took = time.process_time() - began - spent
    return step, time.process_time() - began


def _best_of(objective: Objective, subject: Subject, items: list[Item], seconds: float) -> tuple[int, float]:
    """Other noises for every image until the time is up; the best of each by the optimised reward is kept."""
    noise, painter = subject.parameters["noise"], objective.painter
    name = objective.rewards.total_name
    draws, took, began = 0, 0.0, time.process_time()
    best: Tensor | None = None
    while (spent := time.process_time() - began) + took / 2 < seconds or draws == 0:
        with torch.no_grad():
            tried = painter.noise([item.seed + draws for item in items]).to(noise)
            kept, noise.data = noise.detach().clone(), tried
            scores = torch.tensor(objective.paint(items)[1][name])
            better = torch.ones(len(items), dtype=torch.bool) if best is None else scores > best
            best = scores if best is None else torch.maximum(best, scores)
            noise.data = torch.where(better[:, None, None, None].to(noise.device), tried, kept)
        draws += 1
        took = time.process_time() - began - spent
    return draws, time.process_time() - began
