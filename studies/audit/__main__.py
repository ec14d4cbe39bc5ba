"""Runs the study and writes its data, pictures and page."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

import adjointdpm as ad
from adjointdpm import zoo
from adjointdpm.formats import fingerprint
from adjointdpm.runs import atomic_write, environment
from adjointdpm.tasks.team import Team
from studies.audit.design import GUIDANCE, LEVEL, TAU, Plan, full_plan, tiny_plan
from studies.audit.page import page, write_pictures
from studies.audit.runner import Study, run_case

ROOT = Path(__file__).parents[2]
DATA = ROOT / "studies/audit/results.json"
LAUNCH = ("--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
          "--main_process_port", "0")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.audit", description=__doc__)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--full", action="store_true", help="twice the noises, the adjoint everywhere")
    sizes.add_argument("--tiny", action="store_true", help="two objects, few steps; docs are not touched")
    sizes.add_argument("--page", action="store_true", help="write the page from results.json only")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "audit", help="folder for runs (resumed if there)")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="of one thread each")
    options = parser.parse_args()
    if options.page:
        write(json.loads(DATA.read_text(encoding="utf-8")), None, DATA, ROOT / "docs/img", ROOT / "docs/audit.md")
        return
    if options.processes > 1 and "WORLD_SIZE" not in os.environ:
        launch(options.processes)
        return
    torch.set_num_threads(1 if options.processes > 1 else torch.get_num_threads())
    plan = full_plan() if options.full else tiny_plan() if options.tiny else Plan()
    generator, team = ad.differentiable(zoo.emoji(), wrt=("x_T",)), Team.join()
    folder = options.work / f"{fingerprint(generator.pipe)['denoiser']}-{plan.size}"
    study = Study(plan, generator, folder, team)
    results = run(study)
    if not team.main:
        return
    if options.tiny:
        data, images, text = folder / "results.json", folder / "img", folder / "audit.md"
    else:
        data, images, text = DATA, ROOT / "docs/img", ROOT / "docs/audit.md"
    atomic_write(data, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write(results, folder, data, images, text)


def launch(processes: int) -> None:
    """The same command in several processes of one thread each, which share the batches of each case."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "--num_processes", str(processes)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([*command, "-m", "studies.audit", *sys.argv[1:]], cwd=ROOT, env=settings)
    raise SystemExit(ran.returncode)


def run(study: Study) -> dict[str, Any]:
    """All cases, with a progress bar; the results as they are stored."""
    console, figures = Console(quiet=not study.team.main), {}
    with Progress(console=console) as bars:
        whole = bars.add_task("cases", total=len(study.plan.cases))
        for case in study.plan.cases:
            task = bars.add_task(case.title, total=1)

            def update(done: int, of: int, what: str, task: Any = task, title: str = case.title) -> None:
                bars.update(task, completed=done, total=of, description=f"{title}: {what}")

            figures[case.name] = run_case(study, case, update)
            bars.remove_task(task)
            bars.advance(whole)
            console.print(f"{case.title}: {figures[case.name].get('headline', 'missing')}", soft_wrap=True)
    return {
        "size": study.plan.size,
        "tau": TAU,
        "level": LEVEL,
        "steps": study.plan.steps,
        "guidance": GUIDANCE,
        "iterations": study.plan.iterations,
        "processes": study.team.size,
        "seconds": round(sum(f.get("seconds", 0.0) for f in figures.values()), 1),
        "environment": environment(),
        "model": fingerprint(study.generator.pipe),
        "cases": figures,
    }


def write(results: dict[str, Any], folder: Path | None, data: Path, images: Path, text: Path) -> None:
    """Pictures (those that need the runs' folder only where there is one) and the page."""
    write_pictures(results, folder, images)
    atomic_write(text, page(results))
    sys.stdout.write(f"{data}\n{text}\n")


if __name__ == "__main__":
    main()
