"""Runs the study and writes its data, pictures and page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import adjointdpm as ad
from adjointdpm import zoo
from adjointdpm.formats import fingerprint
from adjointdpm.runs import atomic_write, environment
from studies.reward import design
from studies.reward.design import METHODS, Plan
from studies.reward.page import page, write_charts, write_pictures
from studies.reward.runner import Study, cases

ROOT = Path(__file__).parents[2]
DATA, IMAGES, PAGE = ROOT / "studies/reward/results.json", ROOT / "docs/img", ROOT / "docs/reward.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.reward", description=__doc__)
    parser.add_argument("--full", action="store_true", help="five seeds, four minutes a run")
    parser.add_argument("--tiny", action="store_true", help="shows that everything runs; docs are not touched")
    parser.add_argument("--page", action="store_true", help="the page only, from studies/reward/results.json")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "reward", help="folder for runs (resumed if there)")
    options = parser.parse_args()
    if options.page:
        atomic_write(PAGE, page(json.loads(DATA.read_text(encoding="utf-8"))))
        print(PAGE)
        return
    torch.set_num_threads(1)  # see `timed`
    plan = design.full_plan() if options.full else design.tiny_plan() if options.tiny else Plan()
    generator = ad.differentiable(zoo.emoji())
    model = fingerprint(generator.pipe)
    size = "-tiny" if options.tiny else "-full" if options.full else ""
    study = Study(plan, generator, zoo.judge(), options.work / f"{model['denoiser']}{size}")
    results = run(study, model)
    data, images, text = DATA, IMAGES, PAGE
    if options.tiny:
        data, images, text = (study.folder / name for name in ("results.json", "img", "reward.md"))
    write_pictures(study, images)
    write_charts(results, images)
    atomic_write(data, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    atomic_write(text, page(results))
    print(f"{data}\n{text}")


def run(study: Study, model: dict[str, str]) -> dict[str, Any]:
    """All runs, with a progress bar; the results as they are stored."""
    plan = study.plan
    count = len(plan.seeds) * len(plan.goals) * sum(len(methods) for methods in METHODS.values())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    found = []
    with Progress(*columns, console=Console()) as bars:
        task = bars.add_task("runs", total=count + 1)

        def say(text: str) -> None:
            bars.update(task, description=text)

        for case in cases(study, say):
            bars.advance(task)
            found.append({name: value for name, value in case.items() if name != "plan"})
        classes = [{k: v for k, v in c.items() if k != "plan"} for c in study.classes(say)]
        bars.advance(task)
    return {
        "seconds": plan.seconds,
        "seeds": plan.seeds,
        "steps": plan.steps,
        "guidance": design.GUIDANCE,
        "goals": {goal.name: vars(goal) for goal in plan.goals},
        "tiny": not plan.rates,
        "environment": environment(),
        "model": model,
        "cases": found,
        "classes": classes,
    }


if __name__ == "__main__":
    main()
