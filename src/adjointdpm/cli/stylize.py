"""`adjointdpm stylize`: options and a settings file -> the task's configuration, the run, and what came out of it.

The options mirror `tasks.stylize.config.StylizeConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.cli.again import command_again
from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.settings import FLAGS as SHARED
from adjointdpm.cli.settings import RECORD, recorded_options, task_settings
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

    config = task_settings(
        StylizeConfig, given, config_file, task="stylize", folder="stylized", resume=resume, flags=FLAGS
    )
    if resume:
        road, choice = recorded_options(config.out, road, choice)
    generator = ad.differentiable(choice.load(), **{name: value for name, value in road.items() if value is not None})
    again = command_again("stylize", config, FLAGS, road, choice)
    label = f"learning the style of {config.style.name}"
    with shell.progress(label, config.optimiser_steps) as update:

        def on_step(step: int, of: int, loss: float) -> None:
            update(step, f"{label}, loss {loss:.3f}")

        result = run(config, generator, on_step=on_step, again=again)
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
    for line in summary(config, result, again):
        shell.say(line)
    return 0


def _recognised(found: Mapping[str, Any], images: int) -> str:
    if not found["images"]:
        return "no object is named"
    before, after = (100 * found[when] for when in ("before", "after"))
    of = "" if found["images"] == images else f"; {found['images']} of {images} images have one named,"
    return f"{before:.0f} % -> {after:.0f} % of the objects{of}"


def summary(config: StylizeConfig, result: StylizeResult, again: str) -> list[str]:
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
            lines.append(f"recognised    {_recognised(figures['recognised'], figures['images'])} on {title}")
    return [
        *lines,
        f"weights       {result.weights}",
        f"report        {result.report_path}",
        f"the same      {again}",
    ]
