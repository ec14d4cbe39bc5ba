"""`adjointdpm invert`: options and a settings file -> the task's configuration, the run, and what came out of it.

The options mirror `tasks.InvertConfig`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.cli.again import command_again
from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.settings import FLAGS as SHARED
from adjointdpm.cli.settings import RECORD, recorded_options, task_settings
from adjointdpm.cli.shell import Shell

if TYPE_CHECKING:
    from adjointdpm.tasks import InvertConfig, InvertResult

__all__ = ["FLAGS", "invert", "settings"]

#: Option of each field of the configuration whose name differs from "--field-name".
FLAGS = SHARED | {
    "prompts": "PROMPT...",
    "seeds": "--seed",
    "effect_options": "--effect-option",
    "target_images": "--target",
    "variant": "--placement",
    "unseen_prompts": "--unseen-prompt",
    "unseen_seeds": "--unseen-seed",
}


def invert(
    shell: Shell, given: Mapping[str, Any], config_file: Path | None, resume: bool,
    road: Mapping[str, Any], choice: ModelChoice,
) -> int:  # fmt: skip
    """Run the inversion; the JSON document holds the results and the paths of embedding, report and record."""
    config = settings(given, config_file, resume)
    if resume:
        road, choice = recorded_options(config.out, road, choice)

    import adjointdpm as ad

    pipe = choice.load()
    generator = ad.differentiable(pipe, **{name: value for name, value in road.items() if value is not None})
    with shell.progress(f"learning {config.target_name}", config.epochs) as update:
        label = f"learning {config.target_name}"
        result = ad.tasks.invert(
            config,
            generator,
            on_step=lambda n, of, loss: update(n, f"{label}, loss {loss:.5f}"),
            again=command_again("invert", config, FLAGS, road, choice),
        )
    shell.emit(
        {
            "command": "invert",
            "model": choice.name,
            "results": result.record["results"],
            "embedding": result.embedding_path,
            "report": result.report_path,
            "record": result.folder / RECORD,
        }
    )
    for line in summary(config, result, choice):
        shell.say(line)
    return 0


def settings(given: Mapping[str, Any], config_file: Path | None, resume: bool) -> InvertConfig:
    """The validated configuration; see `task_settings`."""
    from adjointdpm.tasks import InvertConfig

    return task_settings(
        InvertConfig,
        given,
        config_file,
        task="invert",
        folder="inversion",
        resume=resume,
        flags=FLAGS,
    )


def summary(config: InvertConfig, result: InvertResult, choice: ModelChoice) -> list[str]:
    """The results for people."""

    def percent(share: float | None) -> str:
        return "not known (there is no true effect to compare with)" if share is None else f"{100 * share:.0f} %"

    words = [
        "rocket " + config.token if config.space == "token" else "rocket",
        "--embedding",
        str(result.embedding_path),
    ]
    words += [] if choice.model is None else ["--model", choice.model]
    words += ["--steps", str(config.steps), "--guidance", f"{config.guidance_scale:g}"]
    return [
        f"effect        {config.target_name}",
        f"loss          {result.losses[0]:.5g} -> {result.record['results']['final_loss']:.5g}",
        f"gap closed    {percent(result.seen_gap_closed)} on the training pairs",
        f"              {percent(result.unseen_gap_closed)} on prompts and noises never optimised on",
        f"embedding     {result.embedding_path}",
        f"use it        {shlex.join(['adjointdpm', 'generate', *words])}",
        f"report        {result.report_path}",
    ]
