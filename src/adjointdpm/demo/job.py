"""The steps of the demo, each returning plain values for the report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.formats import fingerprint
from adjointdpm.numerics import LiveTensorMeter, relative_error
from adjointdpm.tasks import InvertConfig, InvertResult, invert
from adjointdpm.tasks.inversion.compare import gap_closed
from adjointdpm.tasks.inversion.painter import Painter
from adjointdpm.tasks.inversion.targets import true_effect
from adjointdpm.zoo import judge as judge_network
from adjointdpm.zoo.measure import object_recognised

TRAIN_PROMPTS = (
    "cat on white background",
    "rocket on blue background",
    "mushroom on gray background",
    "cake on green stripes",
)
TRAIN_SEEDS = (11, 12, 13, 14)
UNSEEN_PROMPTS = (
    "fox on white background",
    "penguin on yellow background",
    "hamburger on white background",
    "robot on green background",
    "guitar on orange stripes",
    "pineapple on blue background",
)
UNSEEN_SEEDS = (101, 102)
STEPS, GUIDANCE, EPOCHS = 10, 3.0, 50
CHECK_STEPS = (10, 40)


@dataclass(frozen=True)
class Demonstration:
    """One effect to invert; `remark` says what makes it interesting."""

    effect: str
    title: str
    remark: str


DEMONSTRATIONS = (
    Demonstration(
        "duotone",
        "A duotone, for which there is no word",
        "Purple shadows and yellow lights: no prompt can ask for it.",
    ),
    Demonstration("sepia", "Sepia", "The model knows a word for it; the embedding found it from four images alone."),
)


@dataclass(frozen=True)
class Check:
    """Exact gradient against plain backpropagation at `steps` guided steps: error and peak of live tensors in MB."""

    steps: int
    error: float
    exact_mb: float
    full_mb: float


@dataclass(frozen=True)
class Shown:
    """Images (B, 3, H, W) of unseen prompts and noises, and what was measured on them.

    `gap` and `feature_gap` are median shares of the gap to the true effect that is closed, in mean squared error and in
    features of the judge network (nothing was optimised against it); `recognised` counts the images whose object the
    judge names in the plain picture, in the true effect and with the embedding.
    """

    demonstration: Demonstration
    result: InvertResult
    prompts: list[str]
    plain: Tensor
    ours: Tensor
    true: Tensor
    gap: float
    feature_gap: float
    recognised: tuple[int, int, int]


def check_gradient(generator: Any, steps: int) -> Check:
    """Gradient of the mean square of an image to its noise and its text rows, by both engines."""
    prompt, negative = (t.detach() for t in generator.encode_prompt("a red apple"))
    noise = generator.prepare_latents(1, 0)
    gradients, peaks = [], []
    for engine in ("exact", "full"):
        inputs = [noise.clone().requires_grad_(), prompt.clone().requires_grad_()]
        with LiveTensorMeter() as meter:
            out = generator.with_(gradient=engine, wrt=("x_T", "cond"))(
                latents=inputs[0],
                prompt_embeds=inputs[1],
                negative_prompt_embeds=negative,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
            )
            gradients.append(torch.autograd.grad(out.image_unclamped.square().mean(), inputs))
        peaks.append(meter.peak_bytes / 1e6)
        del out
    error = max(relative_error(got, want) for got, want in zip(*gradients, strict=True))
    return Check(steps, error, *peaks)


def learn(
    generator: Any, demonstration: Demonstration, folder: Path, epochs: int, on_step: Callable[[int, int, float], None]
) -> InvertResult:
    """Invert one effect, or go on with it: the folder's name holds a hash of model and settings."""
    config = InvertConfig(
        out=folder,
        prompts=TRAIN_PROMPTS,
        seeds=TRAIN_SEEDS,
        effect=demonstration.effect,
        steps=STEPS,
        guidance_scale=GUIDANCE,
        epochs=epochs,
        unseen_prompts=(),
    )
    identity = json.dumps([config.identity(), fingerprint(generator.pipe), repr(generator)], sort_keys=True)
    key = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return invert(
        config.model_copy(update={"out": folder / f"{demonstration.effect}-{key}"}), generator, on_step=on_step
    )


def show(generator: Any, demonstration: Demonstration, result: InvertResult) -> Shown:
    """Plain, with the embedding, and with the true effect: every unseen prompt with every unseen noise."""
    config = InvertConfig(
        out=result.folder,
        prompts=TRAIN_PROMPTS,
        effect=demonstration.effect,
        steps=STEPS,
        guidance_scale=GUIDANCE,
        batch_size=6,
    )
    painter = Painter(generator, config)
    prompts = [prompt for _ in UNSEEN_SEEDS for prompt in UNSEEN_PROMPTS]
    seeds = [seed for seed in UNSEEN_SEEDS for _ in UNSEEN_PROMPTS]
    embeds, negative = painter.encode(prompts)
    plain = painter.paint(embeds, negative, seeds)
    ours = painter.paint(result.embedding.apply(generator, prompts), negative, seeds)  # type: ignore[union-attr]
    true = true_effect(config, painter, prompts, seeds, plain)
    assert true is not None
    gap = float(gap_closed(ours.image, plain.image, true.image).median())
    judge = judge_network()
    feature_gap = float(gap_closed(ours.image, plain.image, true.image, judge.features).median())
    recognised = [int(object_recognised(p.image, prompts, judge).sum()) for p in (plain, true, ours)]
    return Shown(
        demonstration, result, prompts, plain.shown, ours.shown, true.shown, gap,
        feature_gap, (recognised[0], recognised[1], recognised[2]),
    )  # fmt: skip


def seconds_since(began: float) -> str:
    seconds = time.perf_counter() - began
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
