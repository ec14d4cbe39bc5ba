"""`adjointdpm stylize`: options and a settings file -> the task's configuration, the run, and what came out of it.

The options mirror `tasks.stylize.config.StylizeConfig`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.settings import FLAGS as SHARED
from adjointdpm.cli.settings import RECORD, task_settings
from adjointdpm.cli.shell import Shell

if TYPE_CHECKING:
    from adjointdpm.tasks.stylize import StylizeConfig, StylizeResult

__all__ = ["FLAGS", "stylize", "summary"]

#: Option of each field of the configuration whose name differs from "--field-name".
FLAGS = SHARED | {
    "style": "IMAGE",
    "prompts": "--prompt",
    "seeds": "--seed",
    "style_layers": "--style-layer",
    "content_layers": "--content-layer",
    "validation_prompts": "--validation-prompt",
    "validation_seeds": "--validation-seed",
    "unseen_prompts": "--unseen-prompt",
    "unseen_seeds": "--unseen-seed",
}


def stylize(
    shell: Shell, given: Mapping[str, Any], config_file: Path | None, resume: bool,
    road: Mapping[str, Any], choice: ModelChoice,
) -> int:  # fmt: skip
    """Run the fine-tuning; the JSON document holds the results and the paths of weights, report and record."""
    import adjointdpm as ad
    from adjointdpm.tasks.stylize import StylizeConfig
    from adjointdpm.tasks.stylize import stylize_model as run

    config = task_settings(StylizeConfig, given, config_file, resume=resume, flags=FLAGS)
    pipe = choice.load()
    generator = ad.differentiable(pipe, **{name: value for name, value in road.items() if value is not None})
    label = f"learning the style of {config.style.name}"
    with shell.progress(label, config.optimiser_steps) as update:
        result = run(config, generator, on_step=lambda n, of, loss: update(n, f"{label}, loss {loss:.3f}"))
    shell.emit(
        {
            "command": "stylize",
            "model": choice.name,
            "results": result.results,
            "weights": result.weights,
            "report": result.report_path,
            "record": result.folder / RECORD,
        }
    )
    for line in summary(config, result, choice):
        shell.say(line)
    return 0


def summary(config: StylizeConfig, result: StylizeResult, choice: ModelChoice) -> list[str]:
    """The results for people."""
    found = result.results
    lines = [
        f"style         {config.style}",
        f"loss          {found['first_loss']:.4g} -> {found['final_loss']:.4g} in {found['optimiser_steps']} steps",
    ]
    for title, figures in found["sets"].items():
        for network, gram in figures["gram"].items():
            role = "optimised" if network == found["features"] else "only measures"
            line = f"Gram distance {gram['before']:.3g} -> {gram['after']:.3g} ({100 * -gram['drop']:+.0f} %)"
            lines.append(f"{line} on {title}, in {network} ({role})")
        if "recognised" in figures:
            before, after = (100 * figures["recognised"][when] for when in ("before", "after"))
            lines.append(f"recognised    {before:.0f} % -> {after:.0f} % of the objects on {title}")
    return [
        *lines,
        f"weights       {result.weights}",
        f"report        {result.report_path}",
        f"the same      {shlex.join(_again(result, choice))}",
    ]


def _again(result: StylizeResult, choice: ModelChoice) -> list[str]:
    words = ["adjointdpm", "stylize", "--config", str(result.folder / "config.json")]
    words += ["--out", f"{result.folder}-again"]
    return words if choice.model is None else [*words, "--model", choice.model]
