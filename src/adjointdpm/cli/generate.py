"""`adjointdpm generate`: prompts -> PNG files that record how they were made.

Every image has its own seed (SEED + its number in the run), so any one of them can be painted again alone, whatever
the batch.  Names are settled and checked before the model is loaded: nothing is overwritten unless `--force` says so.
What is saved is the image after the pipeline's safety checker and watermark, never the one before.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.output import check_folder_for_output, refuse_overwriting
from adjointdpm.cli.painter import Painter, Request
from adjointdpm.cli.shell import Shell

if TYPE_CHECKING:
    from adjointdpm.formats import GenerationText

__all__ = ["Request", "generate", "slug"]


@dataclass(frozen=True)
class Job:
    """One image to come."""

    prompt: str
    seed: int
    file: Path


def slug(text: str, length: int = 60) -> str:
    """`text` as a file name that every system takes: lower-case letters, digits and hyphens, never empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:length].strip("-") or "image"


def plan(request: Request) -> list[Job]:
    """The images in order, prompt by prompt; raises `InvalidInput` if one of the files is there already."""
    prompts = [prompt for prompt in request.prompts for _ in range(request.count)]
    jobs = [
        Job(prompt, request.seed + i, request.out / f"{i:04d}-{slug(prompt)}.png") for i, prompt in enumerate(prompts)
    ]
    refuse_overwriting([job.file for job in jobs], request.force)
    return jobs


def generate(shell: Shell, request: Request, choice: ModelChoice) -> int:
    """Paint and save; the JSON document lists file, prompt, seed and the safety checker's verdict of each image."""
    import torch

    from adjointdpm.formats import save_png

    jobs = plan(request)
    check_folder_for_output(request.out)
    painter = Painter(choice.load(), request)
    images: list[dict[str, Any]] = []
    started = time.perf_counter()
    with shell.progress("painting", len(jobs) * request.steps) as update, torch.no_grad():
        for start in range(0, len(jobs), request.batch):
            part = jobs[start : start + request.batch]

            def on_step(done: int, start: int = start, size: int = len(part)) -> None:
                update(start * request.steps + min(done, request.steps) * size)

            made = painter.paint([job.prompt for job in part], [job.seed for job in part], on_step)
            flags = made.stats.safety or [False] * len(part)
            for job, picture, flagged in zip(part, made.pil(), flags, strict=True):
                save_png(picture, job.file, _text(job, request, choice, made.stats.scheduler))
                images.append({"file": job.file, "prompt": job.prompt, "seed": job.seed, "flagged": flagged})
    seconds = time.perf_counter() - started
    shell.emit({"command": "generate", "model": choice.name, "images": images, "seconds": seconds})
    for image in images:
        shell.say(f"{image['file']}" + ("  (blanked by the safety checker)" if image["flagged"] else ""))
    return 0


def _text(job: Job, request: Request, choice: ModelChoice, sampler: str) -> GenerationText:
    """What the PNG says about itself."""
    from adjointdpm.formats import GenerationText

    extra = {"Model": choice.name}
    if request.embedding is not None:
        extra["Embedding"] = request.embedding.name
    if request.noise is not None:
        extra["Noise"] = request.noise.name
    return GenerationText(
        prompt=job.prompt,
        negative_prompt=request.negative or "",
        steps=request.steps,
        sampler=sampler,
        guidance_scale=request.guidance,
        seed=job.seed,
        extra={key: value.replace(",", " ") for key, value in extra.items()},
    )
