"""Runs the study and writes its data, pictures and page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

import adjointdpm as ad
from adjointdpm import zoo
from adjointdpm.formats import fingerprint
from adjointdpm.runs import atomic_write, environment
from studies.inversion.design import (
    EPOCHS,
    GUIDANCE,
    PAIRS_PER_STEP,
    ROWS,
    TRAIN_PROMPTS,
    TRAIN_SEEDS,
    Plan,
    quick_plan,
)
from studies.inversion.page import page, percent, write_chart, write_pictures
from studies.inversion.runner import TOKEN_VECTORS, Study, run_effect
from studies.inversion.words import candidates

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.inversion", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two effects, few steps; docs are not touched")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "inversion", help="folder for runs (resumed if there)"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = quick_plan() if options.quick else Plan()
    generator = ad.differentiable(zoo.emoji(), wrt=("cond",))
    model = fingerprint(generator.pipe)
    folder = options.work / f"{model['denoiser']}{'-quick' if options.quick else ''}"
    study = Study(plan, generator, zoo.judge(), folder)
    results = run(study, model)
    if options.quick:
        data, images, text = folder / "results.json", folder / "img", folder / "inversion.md"
    else:
        data, images, text = ROOT / "studies/inversion/results.json", ROOT / "docs/img", ROOT / "docs/inversion.md"
    effects = list(plan.effects)
    write_pictures(folder, images, effects, study.test()[0])
    write_chart(images, effects, results)
    atomic_write(data, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    atomic_write(text, page(results, effects))
    print(f"{data}\n{text}")


def run(study: Study, model: dict[str, str]) -> dict[str, Any]:
    """All effects, with a progress bar; the results as they are stored."""
    console, figures = Console(), {}
    with Progress(console=console) as bars:
        whole = bars.add_task("effects", total=len(study.plan.effects))
        for effect in study.plan.effects:
            task = bars.add_task(effect.title, total=study.plan.epochs)
            found = run_effect(study, effect, lambda step, epochs, loss, task=task: bars.update(task, completed=step))
            figures[effect.name] = {key: value for key, value in found.items() if key != "plan"}
            bars.remove_task(task)
            bars.advance(whole)
            closed = {m: percent(v["mse"]["median"]) for m, v in found["gap_closed"].items()}
            line = f"{effect.title}: {closed}, word “{found['word']}”, {found['seconds']['all']:.0f} s"
            console.print(line, soft_wrap=True)
    return {
        "train_prompts": TRAIN_PROMPTS,
        "train_seeds": TRAIN_SEEDS,
        "test_prompts": study.plan.test_prompts,
        "test_seeds": study.plan.test_seeds,
        "steps": study.plan.steps,
        "guidance": GUIDANCE,
        "epochs": study.plan.epochs,
        "pairs_per_step": PAIRS_PER_STEP,
        "rows": ROWS,
        "token_vectors": TOKEN_VECTORS,
        "candidates": len(candidates()),
        "quick": study.plan.epochs != EPOCHS,
        "seconds": sum(f["seconds"]["all"] for f in figures.values()),
        "environment": environment(),
        "model": model,
        "effects": figures,
    }


if __name__ == "__main__":
    main()
