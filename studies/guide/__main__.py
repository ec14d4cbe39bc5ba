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
from studies.guide.design import GUIDANCE, Plan, full_plan, tiny_plan
from studies.guide.page import page, write_pictures
from studies.guide.runner import Study, run_prompt
from studies.guide.summary import median_interval
from studies.guide.validate import segmentation_quality

ROOT = Path(__file__).parents[2]
DATA, TEXT, IMAGES = ROOT / "studies/guide/results.json", ROOT / "docs/guide.md", ROOT / "docs/img"
SPRITES = ROOT / ".cache/zoo/sprites.npz"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.guide", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tiny", action="store_true", help="three questions, two steps; docs are not touched")
    size.add_argument("--full", action="store_true", help="four noises a prompt")
    size.add_argument("--page", action="store_true", help="write the page from the committed data")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "guide", help="folder for runs (resumed if there)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    if options.page:
        results = json.loads(DATA.read_text(encoding="utf-8"))
        atomic_write(TEXT, page(results, full_plan() if results["full"] else Plan()))
        return
    torch.set_num_threads(options.threads)
    plan = tiny_plan() if options.tiny else full_plan() if options.full else Plan()
    generator = ad.differentiable(zoo.emoji(), memory="4GB")
    model = fingerprint(generator.pipe)
    suffix = "-tiny" if options.tiny else "-full" if options.full else ""
    folder = options.work / f"{model['denoiser']}{suffix}"
    study = Study(plan, generator, zoo.judge(), folder)
    results = run(study, model) | {"full": options.full}
    data, text, images = (folder / "results.json", folder / "guide.md", folder / "img") if options.tiny else (
        DATA, TEXT, IMAGES
    )  # fmt: skip
    results["segmentation"] = segmentation_quality(SPRITES, data)
    write_pictures(study, images, plan)
    atomic_write(data, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    atomic_write(text, page(results, plan))
    print(f"{data}\n{text}")


def run(study: Study, model: dict[str, str]) -> dict[str, Any]:
    """All questions, with a progress bar; the results as they are stored."""
    console = Console()
    figures: dict[str, dict[str, Any]] = {}
    with Progress(console=console) as bars:
        whole = bars.add_task("prompts", total=sum(len(q.prompts) for q in study.plan.questions))
        for question in study.plan.questions:
            figures[question.name] = {}
            for prompt in question.prompts:
                task = bars.add_task(f"{question.name}: {prompt}", total=study.plan.updates)
                found = run_prompt(
                    study, question, prompt, lambda step, of, loss, task=task: bars.update(task, completed=step)
                )
                figures[question.name][prompt] = {k: v for k, v in found.items() if k != "asked"}
                bars.remove_task(task)
                bars.advance(whole)
                middle = {name: median_interval(values)["median"] for name, values in found["values"].items()}
                console.print(f"{question.name}, {prompt}: {middle}", soft_wrap=True)
    seconds = sum(sum(f["seconds"].values()) for prompts in figures.values() for f in prompts.values())
    return {
        "steps": study.plan.steps,
        "updates": study.plan.updates,
        "guidance": GUIDANCE,
        "recurrence": study.plan.recurrence,
        "seconds": round(seconds, 1),
        "environment": environment(),
        "model": model,
        "questions": figures,
    }


if __name__ == "__main__":
    main()
