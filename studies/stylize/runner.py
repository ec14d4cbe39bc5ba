"""One style, from fine-tuning to figures, with all rivals; every part is saved, so a stopped study goes on."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm import zoo
from adjointdpm.formats import fingerprint
from adjointdpm.losses.perceptual import FeatureExtractor
from adjointdpm.losses.style import StyleAndContent, StyleTarget
from adjointdpm.runs import atomic_write, load_tensors, save_tensors
from adjointdpm.tasks.inversion.config import InvertConfig
from adjointdpm.tasks.inversion.token_space import TokenSpace
from adjointdpm.tasks.painter import Painter
from adjointdpm.tasks.settings import TaskConfig
from adjointdpm.tasks.stylize.compare import distances
from adjointdpm.tasks.stylize.config import NONE, StylizeConfig
from adjointdpm.tasks.stylize.run import stylize_model
from adjointdpm.tasks.stylize.style_image import open_style, style_tensor
from adjointdpm.tasks.weights import Trained
from adjointdpm.zoo.measure import object_recognised
from studies.stylize import denoising, pixels
from studies.stylize.design import GUIDANCE, IDENTIFIER, METHODS, TOKEN_VECTORS, Plan, Style
from studies.stylize.measure import Measured, figures, mcnemar

Pair = tuple[str, int]
BRANCHES = 2  # guidance runs the network on the prompt and on the negative one


@dataclass
class Study:
    """The model, the networks that look at its images, and the folder that all styles share.

    `optimised` is the network of the losses as the task knows it and as an object; `meters` are the networks that only
    measure, by name, the one of the target first; `judge` names objects.
    """

    plan: Plan
    generator: Any
    optimised: tuple[str, FeatureExtractor]
    meters: Mapping[str, FeatureExtractor]
    judge: Any
    folder: Path

    def painter(self, generator: Any = None) -> Painter:
        config = TaskConfig(out=self.folder, steps=self.plan.steps, guidance_scale=GUIDANCE, batch_size=self.plan.batch)
        return Painter(generator or self.generator, config)

    def pairs(self) -> list[Pair]:
        """The images of all sets, one after another."""
        return [pair for pairs in self.plan.sets().values() for pair in pairs]


def run_style(study: Study, style: Style, on_step: Callable[[int, int, float], None] | None = None) -> dict[str, Any]:
    """The figures of `style`, from its file if the same plan was already run."""
    path = study.folder / style.name / "figures.json"
    plan = json.loads(json.dumps({**asdict(study.plan), "training": study.plan.training()}, default=str))
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["plan"] == plan:
            return found
    began = time.perf_counter()
    found = {"plan": plan, **_measure(study, style, on_step)}
    found["seconds"]["all"] = round(time.perf_counter() - began, 1)
    atomic_write(path, json.dumps(found, indent=1))
    return found


def _measure(study: Study, style: Style, on_step: Callable[[int, int, float], None] | None) -> dict[str, Any]:
    folder, pairs = study.folder / style.name, study.pairs()
    before = _cached(study.folder / "before.safetensors", lambda: paint(study.painter(), pairs))
    reference = style_tensor(open_style(style.file), min(before.shape[-2:]))
    seconds: dict[str, float] = {}
    images: dict[str, Tensor] = {}
    used: dict[str, Any] = {}

    result = stylize_model(task_of(study, style), study.generator, on_step=on_step)
    seconds["ours"] = result.results["optimisation_seconds"]
    work = result.results["work"]
    evaluations = BRANCHES * (work["forwards"] + work["vjps"])
    used["ours"] = {"forwards": BRANCHES * work["forwards"], "vjps": BRANCHES * work["vjps"]}
    images["ours"] = _cached(folder / "ours.safetensors", lambda: paint_tuned(study, result.weights, pairs))

    rivals: dict[str, Callable[[], tuple[Tensor, dict[str, Any]]]] = {
        "textual_inversion": lambda: textual_inversion(study, reference, evaluations, pairs),
        "dreambooth": lambda: dreambooth(study, reference, evaluations, pairs),
        "pixels": lambda: optimise_pixels(study, reference, evaluations, before),
    }
    for name, make in rivals.items():
        images[name], used[name] = _kept(folder / f"{name}.safetensors", make)
        seconds[name] = used[name].pop("seconds")
    return {
        "sets": _sets(study, reference, before, images),
        "loss": {"first": result.losses[0], "last": result.losses[-1]},
        "used": used,
        "evaluations": evaluations,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "model": fingerprint(study.generator.pipe),
    }


def task_of(study: Study, style: Style) -> StylizeConfig:
    training = study.plan.training() | {"features": study.optimised[0]}
    return StylizeConfig(
        out=study.folder / style.name / "run", style=style.file, measure=NONE, validate_every=0,
        unseen_prompts=(), unseen_seeds=study.plan.test_seeds[:1], batch_size=None, **training,
    )  # fmt: skip


def paint(painter: Painter, pairs: Sequence[Pair], encode: Callable[[list[str]], Tensor] | None = None) -> Tensor:
    """Images (B, 3, H, W) of the pairs, their text encoded by `encode` where it is not the pipeline's own."""
    prompts, seeds = [prompt for prompt, _ in pairs], [seed for _, seed in pairs]
    embeds, negative = painter.encode(prompts)
    with torch.no_grad():
        rows = embeds if encode is None else encode(prompts)
    return painter.paint(rows, negative, seeds).image


def paint_tuned(study: Study, weights: Path, pairs: Sequence[Pair]) -> Tensor:
    """With the exported weights in a copy of the pipeline, as anybody would use them."""
    pipe = copy.copy(study.generator.pipe)
    tuned = type(pipe.unet).from_pretrained(weights / "unet").requires_grad_(False).eval()
    pipe.register_modules(unet=tuned)
    from adjointdpm.pipelines import differentiable

    return paint(study.painter(differentiable(pipe)), pairs)


def textual_inversion(
    study: Study, reference: Tensor, evaluations: int, pairs: Sequence[Pair]
) -> tuple[Tensor, dict[str, Any]]:
    painter = study.painter()
    config = InvertConfig(
        out=study.folder, prompts=("",), target_words="style", space="token", token="<style>", vectors=TOKEN_VECTORS
    )
    space = TokenSpace(painter, config)
    began = time.perf_counter()
    used = denoising.learn_token(study.generator.pipe, space, _square(reference), evaluations, study.plan.token_rate)
    used["seconds"] = time.perf_counter() - began
    return paint(painter, pairs, space.encode), used


def dreambooth(
    study: Study, reference: Tensor, evaluations: int, pairs: Sequence[Pair]
) -> tuple[Tensor, dict[str, Any]]:
    pipe, rate = study.generator.pipe, study.plan.dreambooth_rate
    with Trained(pipe, "all") as trained:
        began = time.perf_counter()
        used = denoising.learn_weights(pipe, trained, IDENTIFIER, _square(reference), evaluations, rate)
        used["seconds"] = time.perf_counter() - began
        named = [(f"{prompt} {IDENTIFIER}", seed) for prompt, seed in pairs]
        for parameter in trained.parameters.values():
            parameter.requires_grad_(False)
        return paint(study.painter(), named), used


def optimise_pixels(study: Study, reference: Tensor, evaluations: int, before: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The images of the last set alone; it gets all evaluations for them."""
    count = len(next(reversed(study.plan.sets().values())))
    config = study.plan.training()
    loss = StyleAndContent(
        StyleTarget.of(study.optimised[1], reference, config.get("style_layers")),
        config.get("style_weight", 1.0),
        config.get("content_weight", 1.0),
        config.get("content_layers"),
        zoo.classifier() if config.get("content_features") == "classifier" else None,
    )
    began = time.perf_counter()
    done = pixels.stylize_pixels(loss, before[-count:], evaluations, study.plan.pixel_rate)
    steps = max(1, evaluations // (2 * count))
    used = {"steps": steps, "forwards": steps * count, "vjps": steps * count}
    return done, {**used, "seconds": time.perf_counter() - began}


def _square(image: Tensor) -> Tensor:
    """The middle of an image, as the model's own images are square."""
    side = min(image.shape[-2:])
    top, left = (image.shape[-2] - side) // 2, (image.shape[-1] - side) // 2
    return image[..., top : top + side, left : left + side]


def _sets(
    study: Study, reference: Tensor, before: Tensor, images: Mapping[str, Tensor]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures by set and method; the method that has the last set alone is measured there alone."""
    targets = {name: StyleTarget.of(network, reference) for name, network in study.meters.items()}
    targets[study.optimised[0]] = StyleTarget.of(study.optimised[1], reference)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    start, total = 0, len(study.pairs())
    for title, pairs in study.plan.sets().items():
        stop = start + len(pairs)
        found[title] = {}
        ours: dict[str, list[bool]] = {}
        for method in METHODS:
            offset = total - len(images[method])  # images before the first that this method has
            if start < offset:
                continue
            after = images[method][start - offset : stop - offset]
            rows = measured(study, targets, pairs, before[start:stop], after)
            both = {name: m.both() for name, m in rows.items()}
            ours = ours or both
            found[title][method] = {
                name: {**figures(m), **({"against_ours": mcnemar(ours[name], both[name])} if method != "ours" else {})}
                for name, m in rows.items()
            }
        start = stop
    return found


def measured(
    study: Study, targets: Mapping[str, StyleTarget], pairs: Sequence[Pair], before: Tensor, after: Tensor
) -> dict[str, Measured]:
    prompts = [prompt for prompt, _ in pairs]
    seen = [object_recognised(part, prompts, study.judge).tolist() for part in (before, after)]
    return {
        name: Measured(prompts, distances(target, before), distances(target, after), *seen)
        for name, target in targets.items()
    }


def _cached(path: Path, make: Callable[[], Tensor]) -> Tensor:
    if path.exists():
        return load_tensors(path)[0]["image"]
    images = make()
    save_tensors(path, {"image": images})
    return images


def _kept(path: Path, make: Callable[[], tuple[Tensor, dict[str, Any]]]) -> tuple[Tensor, dict[str, Any]]:
    if path.exists():
        tensors, facts = load_tensors(path)
        return tensors["image"], json.loads(facts["used"])
    images, used = make()
    save_tensors(path, {"image": images}, {"used": json.dumps(used)})
    return images, used
