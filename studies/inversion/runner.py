"""One effect, from inversion to figures; every part is saved, so that a stopped study goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.formats import fingerprint
from adjointdpm.runs import atomic_write, load_tensors, save_tensors
from adjointdpm.tasks import InvertConfig, invert
from adjointdpm.tasks.inversion.compare import distance
from adjointdpm.tasks.inversion.painter import Painted, Painter
from adjointdpm.tasks.inversion.targets import true_effect
from adjointdpm.tasks.inversion.token_space import TokenSpace
from adjointdpm.zoo.measure import object_recognised
from studies.inversion import denoising, measure
from studies.inversion.design import GUIDANCE, PAIRS_PER_STEP, ROWS, TRAIN_PROMPTS, TRAIN_SEEDS, Effect, Plan
from studies.inversion.words import best_word, encode_with, word_images

TOKEN_VECTORS, TOKEN_RATE = 4, 0.02
METHODS = ("ours", "word", "denoising")


@dataclass
class Study:
    """The model, the judge and the folder that all effects share."""

    plan: Plan
    generator: Any
    judge: Any
    folder: Path

    def config(self, effect: Effect, **changes: Any) -> InvertConfig:
        base = {
            "out": self.folder / effect.name / "run",
            "prompts": TRAIN_PROMPTS,
            "seeds": TRAIN_SEEDS,
            **effect.target(),
            "rows": ROWS,
            "steps": self.plan.steps,
            "guidance_scale": GUIDANCE,
            "epochs": self.plan.epochs,
            "pairs_per_step": PAIRS_PER_STEP,
            "unseen_prompts": (),
        }
        return InvertConfig(**base | changes)

    def test(self) -> tuple[list[str], list[int]]:
        """Every test prompt with every test noise."""
        pairs = [(prompt, seed) for prompt in self.plan.test_prompts for seed in self.plan.test_seeds]
        return [prompt for prompt, _ in pairs], [seed for _, seed in pairs]


def run_effect(
    study: Study, effect: Effect, on_step: Callable[[int, int, float], None] | None = None
) -> dict[str, Any]:
    """The figures of `effect`, from its file if the same plan was already run."""
    path = study.folder / effect.name / "figures.json"
    plan = json.loads(json.dumps(asdict(study.plan)))
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["plan"] == plan:
            return found
    began = time.perf_counter()
    figures = {"plan": plan, **_measure(study, effect, on_step)}
    figures["seconds"]["all"] = round(time.perf_counter() - began, 1)
    atomic_write(path, json.dumps(figures, indent=1))
    return figures


def _measure(study: Study, effect: Effect, on_step: Callable[[int, int, float], None] | None) -> dict[str, Any]:
    pipe = study.generator.pipe
    began = time.perf_counter()
    result = invert(study.config(effect), study.generator, on_step=on_step)
    seconds = {"ours": time.perf_counter() - began}

    config = study.config(effect, batch_size=study.plan.test_batch)
    painter = Painter(study.generator, config)
    prompts, seeds = study.test()
    plain_embeds, negative = painter.encode(prompts)
    plain = _cached(study.folder / "plain.safetensors", lambda: painter.paint(plain_embeds, negative, seeds))
    true = true_effect(config, painter, prompts, seeds, plain)
    assert true is not None
    targets = load_tensors(config.out / "pairs.safetensors")[0]["target.image"]

    words = word_images(painter, study.folder / "words.safetensors")
    words.pop(effect.words or "", None)  # a style's own word drew the target: as a rival it would be the target itself
    phrase, word_loss = best_word(words, targets)
    token = TokenSpace(painter, study.config(effect, space="token", vectors=TOKEN_VECTORS))
    budget = denoising.sampler_budget(study.plan.epochs, PAIRS_PER_STEP, study.plan.steps)
    began = time.perf_counter()
    used = denoising.learn(pipe, token, targets, budget, TOKEN_RATE)
    seconds["denoising"] = time.perf_counter() - began

    with torch.no_grad():
        embeds = {
            "ours": result.embedding.apply(pipe, prompts),  # type: ignore[union-attr]
            "word": encode_with(painter, phrase, prompts)[0],
            "denoising": token.encode(prompts),
        }
    images = {name: painter.paint(rows, negative, seeds).image for name, rows in embeds.items()}
    figures = _figures(study, prompts, plain.image, true.image, images)
    everything = {"plain": plain.image, "true": true.image, **images}
    save_tensors(
        study.folder / effect.name / "pictures.safetensors",
        {k: (255 * v).round().byte() for k, v in everything.items()},
    )
    return {
        **figures,
        "train_gap": round(result.seen_gap_closed, 4),
        "train_loss": {"first": result.losses[0], "last": result.record["results"]["final_loss"], "word": word_loss},
        "word": phrase,
        "budget": asdict(budget),
        "denoising_used": used,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "model": fingerprint(pipe),
    }


def _figures(
    study: Study, prompts: list[str], plain: Tensor, true: Tensor, images: dict[str, Tensor]
) -> dict[str, Any]:
    judge = study.judge
    before = object_recognised(plain, prompts, judge)
    return {
        "images": len(prompts),
        "gap_closed": {m: measure.shares_closed(images[m], plain, true, judge) for m in METHODS},
        "plain_distance": {
            "mse": float(distance(plain, true).median()),
            "features": float(distance(plain, true, judge.features).median()),
        },
        "recognised": {
            "true": measure.kept(before, object_recognised(true, prompts, judge)),
            **{m: measure.kept(before, object_recognised(images[m], prompts, judge)) for m in METHODS},
        },
    }


def _cached(path: Path, paint: Callable[[], Painted]) -> Painted:
    if path.exists():
        tensors, _ = load_tensors(path)
        return Painted(tensors["image"], tensors["shown"])
    painted = paint()
    save_tensors(path, {"image": painted.image, "shown": painted.shown})
    return painted
