"""One question, every method; each prompt's figures and pictures are saved, so that a stopped study goes on."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adjointdpm import zoo
from adjointdpm.runs import atomic_write, load_tensors, save_tensors
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.run import START_FILE, guide_images
from adjointdpm.tasks.guide.saliency import load_saliency
from adjointdpm.tasks.guide.terms import Seen, build_terms, collage_term, weigh
from adjointdpm.tasks.painter import Painter
from adjointdpm.zoo.measure import object_recognised
from studies.guide.design import BLEND, GUIDANCE, METHOD, RATE, RIVAL_SEED, Plan, Question
from studies.guide.material import draw, wish_of
from studies.guide.measure import measure_of
from studies.guide.rivals import best_of_n, one_step, universal_guidance

__all__ = ["METHODS", "Study", "methods_of", "run_prompt"]

METHODS = ("plain", "start", "exact", "words", "one_step", "universal")


def methods_of(question: Question) -> tuple[str, ...]:
    """Further wishes are compared with repeated sampling only."""
    return METHODS if question.group in ("box", "keep") else METHODS[:4]


@dataclass
class Study:
    """The model, the judge and the folder that all questions share."""

    plan: Plan
    generator: Any
    judge: Any
    folder: Path


def run_prompt(
    study: Study, question: Question, prompt: str, on_step: Callable[[int, int, float], None] | None = None
) -> dict[str, Any]:
    """The figures of one prompt, from its file if the same was already run."""
    folder = study.folder / question.name / prompt.replace(" ", "-")
    path = folder / "figures.json"
    asked = json.loads(
        json.dumps(asdict(question) | {k: getattr(study.plan, k) for k in ("updates", "steps")} | METHOD)
    )
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["asked"] == asked:
            return found
    figures, images = _measure(study, question, prompt, folder, on_step)
    save_tensors(folder / "pictures.safetensors", {k: (255 * v).round().byte() for k, v in images.items()})
    atomic_write(path, json.dumps({"asked": asked, **figures}, indent=1))
    return figures


def _measure(
    study: Study, question: Question, prompt: str, folder: Path,
    on_step: Callable[[int, int, float], None] | None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:  # fmt: skip
    base = {
        "out": folder / "exact", "prompts": (prompt,), "seeds": question.seeds, "steps": study.plan.steps,
        "guidance_scale": GUIDANCE, "updates": study.plan.updates, **METHOD, **_start(question, study.plan),
    }  # fmt: skip
    painter = Painter(study.generator, GuideConfig(**base, symmetry="both"))  # the wish does not matter to a painter
    wish = wish_of(question, draw(folder, question, painter, prompt))
    config = GuideConfig(**base, **wish)
    measure = measure_of(question, wish)
    first = RIVAL_SEED + 1000 * (zlib.crc32(f"{question.name} {prompt}".encode()) % 1000)

    began = time.perf_counter()
    ours = guide_images(config, study.generator, on_step=on_step)
    used = ours.record["results"]
    budget = used["network_calls"] + used["recomputations"] + used["vjps"]  # one batch, so these are those of an image
    plain = painter.paint(*painter.encode([prompt] * len(question.seeds)), list(question.seeds)).image
    start = load_tensors(ours.folder / START_FILE)[0]["images.image"]
    images = {"plain": plain, "start": start, "exact": ours.images}
    tried, calls = {"exact": 1}, {"exact": budget}
    seconds = {"exact": time.perf_counter() - began}
    for method in methods_of(question)[3:]:
        began = time.perf_counter()
        if method == "words":
            found = best_of_n(painter, config, question.phrases, measure, budget, first)
        elif method == "one_step":
            found = one_step(config, study.generator, folder / "one_step", budget)
        else:
            losses = _losses(config, plain)
            found = universal_guidance(
                painter, config, question.phrases, losses, measure, budget, study.plan.recurrence, RATE, first + 500
            )
        images[method], tried[method], calls[method] = found.images, found.tried, found.calls
        seconds[method] = time.perf_counter() - began
    prompts = [prompt] * len(plain)
    return {
        "values": {name: [round(float(v), 4) for v in measure(pictures)] for name, pictures in images.items()},
        "recognised": {
            name: object_recognised(pictures, prompts, study.judge).tolist() for name, pictures in images.items()
        },
        "calls": calls,
        "tried": tried,
        "noise": [case["noise"] for case in used["cases"]],
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }, images


def _start(question: Question, plan: Plan) -> dict[str, Any]:
    """Starting noises, each with one of the question's wordings, some with a guess blended in; moved ones are of no use
    to this model.  A mask is asked for without a guess and a collage.
    """
    phrases = tuple(phrase for phrase in question.phrases if phrase != "{prompt}")
    wishes = {name for name, _ in question.wish}
    found: dict[str, Any] = {"phrases": phrases, "candidates": max(plan.candidates, 1 + len(phrases))}
    found |= {"move_noise": False, "blend": BLEND if wishes & {"box", "image", "low_resolution"} else ()}
    if "mask" in wishes:
        found["weights"] = {"recogniser": 0.3, "collage": 0.0}
    return found


def _losses(config: GuideConfig, plain: Tensor) -> Callable[[Tensor, int], Tensor]:
    """The task's own losses of images of one case."""
    saliency = load_saliency(config.saliency)
    terms = build_terms(config, (int(plain.shape[-2]), int(plain.shape[-1])), zoo.classifier)
    terms = terms + collage_term(config, plain, saliency)

    def losses(images: Tensor, case: int) -> Tensor:
        seen = Seen(images, saliency(images), [config.cases[case][0]] * len(images), [case] * len(images))
        return weigh(terms, seen)

    return losses
