"""Vocabulary expansion: an embedding makes the classifier see a class that the prompt's own words often miss.

Learnt by the task as a user would run it, on a few backgrounds; judged on other backgrounds and noises by the judge.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adjointdpm.tasks import RewardConfig, maximise_reward
from adjointdpm.tasks.reward.config import Item
from adjointdpm.tasks.reward.recognition import Recognised, named_in
from adjointdpm.tasks.reward.subjects import subject_of
from studies.reward.design import (
    EMBEDDING_GROUNDS,
    EMBEDDING_RATE,
    EMBEDDING_ROWS,
    EMBEDDING_SEEDS,
    EMBEDDING_TEST,
    EMBEDDING_TEST_SEEDS,
    GUIDANCE,
    Plan,
)

__all__ = ["is_class", "learn_class"]


def learn_class(
    generator: Any, judge: Any, what: str, plan: Plan, folder: Path, on_step: Callable[[int, int, float], None] | None
) -> dict[str, Any]:
    """Recognised or not, for each test image, with the words alone and with the learnt rows; and the pictures."""
    config = RewardConfig(
        out=folder, optimise="embedding", rewards=(f"classifier={what}",), held_out=f"judge={what}",
        prompts=tuple(f"{what} on {ground} background" for ground in EMBEDDING_GROUNDS), seeds=EMBEDDING_SEEDS,
        unseen_prompts=(), rows=EMBEDDING_ROWS, lr=EMBEDDING_RATE, steps=plan.steps, guidance_scale=GUIDANCE,
        epochs=plan.epochs, noises="fresh", batch_size=12,
    )  # fmt: skip
    result = maximise_reward(config, generator, on_step=on_step)
    items = [Item(0, f"{what} on {g} background", s) for g in EMBEDDING_TEST for s in EMBEDDING_TEST_SEEDS]
    from adjointdpm.formats import PromptEmbedding

    with subject_of(generator, config) as (subject, painter), torch.no_grad():
        subject.parameters["embedding"].copy_(PromptEmbedding.load(result.files[0]).rows)
        words, learnt = painter.paint(*subject.before(items)), painter.paint(*subject.draw(items))
        score = Recognised(judge, what)
        prompts = [item.prompt for item in items]
        return {
            "class": what,
            "words": is_class(judge, words.image, what),
            "learnt": is_class(judge, learnt.image, what),
            "log_p": {"words": score(words.image, prompts).tolist(), "learnt": score(learnt.image, prompts).tolist()},
            "seconds": result.results["optimisation_seconds"],
            "images": {"words": words.image, "learnt": learnt.image},
        }


def is_class(network: Any, images: torch.Tensor, what: str) -> list[bool]:
    """Whether the network's first guess is this object in this style."""
    thing, style = named_in(what)
    drawings = network(images).drawings
    first = drawings.flatten(1).argmax(dim=1)
    return (first == thing * drawings.shape[2] + style).tolist()
