"""Runs the study and writes its data, pictures and page."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

import adjointdpm as ad
from adjointdpm import zoo
from adjointdpm.formats import fingerprint
from adjointdpm.losses.extractors import load_extractor
from adjointdpm.runs import atomic_write, environment
from studies.stylize import design
from studies.stylize.design import ALSO_BY, FEATURES, MEASURED_BY, Plan
from studies.stylize.page import page, write_pictures
from studies.stylize.runner import Study, run_style

ROOT = Path(__file__).parents[2]
DATA, TEXT, IMAGES = ROOT / "studies/stylize/results.json", ROOT / "docs/stylize.md", ROOT / "docs/img"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.stylize", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tiny", action="store_true", help="one style, two steps; docs are not touched")
    size.add_argument("--full", action="store_true", help="the paper's 10 x 10 pairs, more test images")
    parser.add_argument("--page", action="store_true", help="write the page from the committed data")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "stylize", help="folder for runs (resumed if there)"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.page:
        results = json.loads(DATA.read_text(encoding="utf-8"))
        atomic_write(TEXT, page(results, design.full_plan() if results["full"] else Plan()))
        return
    torch.set_num_threads(options.threads)
    plan = design.tiny_plan() if options.tiny else design.full_plan() if options.full else Plan()
    generator = ad.differentiable(zoo.emoji(), memory="4GB")
    model = fingerprint(generator.pipe)
    study = Study(
        plan,
        generator,
        (FEATURES, load_extractor(FEATURES)),
        {MEASURED_BY: load_extractor(MEASURED_BY), ALSO_BY: zoo.judge()},
        zoo.judge(),
        options.work / f"{model['denoiser']}-{digest(plan)}",
    )
    results = run(study, model) | {"full": options.full}
    data, text, images = (
        (study.folder / "results.json", study.folder / "stylize.md", study.folder / "img")
        if options.tiny
        else (DATA, TEXT, IMAGES)
    )
    atomic_write(data, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_pictures(study.folder, images, plan)
    atomic_write(text, page(json.loads(json.dumps(results)), plan))
    print(f"{data}\n{text}")


def digest(plan: Plan) -> str:
    """Of everything that the plan fixes, so that another plan has a folder of its own."""
    fixed = [asdict(plan), plan.training(), design.TOKEN_VECTORS, design.IDENTIFIER]
    fixed.append([style.file.read_bytes().hex() for style in plan.styles])
    return hashlib.sha256(json.dumps(fixed, default=str).encode()).hexdigest()[:8]


def run(study: Study, model: dict[str, str]) -> dict[str, Any]:
    """All styles, with a progress bar; the results as they are stored."""
    console, found = Console(), {}
    with Progress(console=console) as bars:
        whole = bars.add_task("styles", total=len(study.plan.styles))
        for style in study.plan.styles:
            task = bars.add_task(style.title, total=None)

            def update(step: int, steps: int, loss: float, task: Any = task) -> None:
                bars.update(task, completed=step, total=steps)

            figures = run_style(study, style, update)
            found[style.name] = {key: value for key, value in figures.items() if key != "plan"}
            bars.remove_task(task)
            bars.advance(whole)
            last = figures["sets"]["unseen prompts"]
            first = next(iter(study.meters))
            line = ", ".join(
                f"{method} {100 * f[first]['drop']['value']:.0f} % / {100 * f[first]['kept']['value']:.0f} %"
                for method, f in last.items()
            )
            console.print(f"{style.title}: {line}, {figures['seconds']['all']:.0f} s", soft_wrap=True)
    return {
        "plan": json.loads(json.dumps(asdict(study.plan), default=lambda value: value.name)),
        "training": study.plan.training() | {"features": study.optimised[0]},
        "meters": list(study.meters),
        "optimised": study.optimised[0],
        "rates": {
            "textual_inversion": study.plan.token_rate,
            "token_vectors": design.TOKEN_VECTORS,
            "dreambooth": study.plan.dreambooth_rate,
            "pixels": study.plan.pixel_rate,
        },
        "tiny": study.plan.steps != design.STEPS,
        "seconds": sum(f["seconds"]["all"] for f in found.values()),
        "environment": environment(),
        "model": model,
        "styles": found,
    }


if __name__ == "__main__":
    main()
