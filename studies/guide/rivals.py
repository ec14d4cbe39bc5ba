"""What the exact gradient is compared with, each with as many network calls for an image as it had.

A call is one evaluation of the denoiser on both branches of guidance, or one vector-Jacobian product of it; what is run
again in backward counts too.  Every rival may pick its best image by the very measure that the study reports, which the
exact gradient may not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import NumericalWarning
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.run import guide_images
from adjointdpm.tasks.painter import Painter
from studies.guide import universal

__all__ = ["Picked", "best_of_n", "one_step", "universal_guidance"]

Measure = Callable[[Tensor], Tensor]  # images of one case (B, 3, H, W) -> (B,), more is better
BATCH = 24


@dataclass(frozen=True)
class Picked:
    """The best image of each case (N, 3, H, W), and the network calls that each had."""

    images: Tensor
    calls: int
    tried: int


def _pick(images: Tensor, measure: Measure) -> Tensor:
    return images[int(measure(images).argmax())]


def best_of_n(
    painter: Painter, config: GuideConfig, phrases: Sequence[str], measure: Measure, budget: int, first_seed: int
) -> Picked:
    """Repeated sampling: phrases around the prompt take turns, every image has its own noise."""
    count = budget // config.steps
    chosen = []
    for case, (prompt, _) in enumerate(config.cases):
        texts = [phrases[i % len(phrases)].format(prompt=prompt) for i in range(count)]
        seeds = [first_seed + case * count + i for i in range(count)]
        images = []
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            images.append(painter.paint(*painter.encode(texts[part]), seeds[part]).image)
        chosen.append(_pick(torch.cat(images), measure))
    return Picked(torch.stack(chosen), count * config.steps, count)


def one_step(config: GuideConfig, generator: Any, out: Path, budget: int) -> Picked:
    """The same task with the gradient of one network call for the whole chain (`gradient="one_step"`), more updates."""
    start = config.candidates * (1 + len(config.blend or ())) * config.steps
    updates = (budget - start) // (config.steps + 2)  # the sampler, one call with a graph, its VJP
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)  # that it is biased is the point
        rival = generator.with_(solver="euler", spacing="trailing", gradient="one_step", memory=None)
        result = guide_images(config.model_copy(update={"out": out, "updates": updates}), rival)
    return Picked(result.images, start + updates * (config.steps + 2), 1)


def universal_guidance(
    painter: Painter, config: GuideConfig, phrases: Sequence[str], losses: Callable[[Tensor, int], Tensor],
    measure: Measure, budget: int, recurrence: int, rate: float, first_seed: int,
) -> Picked:  # fmt: skip
    """Guidance while sampling, from as many noises as the calls allow, phrases taking turns.

    `losses(images, case)` as in the task.
    """
    each = universal.calls(config.steps, recurrence)
    count = max(1, budget // each)
    chosen = []
    for case, (prompt, _) in enumerate(config.cases):
        embeds, negative = painter.encode([phrases[i % len(phrases)].format(prompt=prompt) for i in range(count)])
        noise = painter.noise([first_seed + case * count + i for i in range(count)])
        images = universal.sample(
            painter.generator.pipe, embeds, negative, noise, lambda image, case=case: losses(image, case),  # type: ignore[misc]
            config.steps, config.guidance_scale, recurrence, rate, seed=first_seed + case,
        )  # fmt: skip
        chosen.append(_pick(images, measure))
    return Picked(torch.stack(chosen), count * each, count)
