"""`adjointdpm guide`: options and a settings file -> the task's configuration, the run, and what came out of it.

The options mirror `tasks.GuideConfig`.
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
from adjointdpm.errors import InvalidInput

if TYPE_CHECKING:
    from adjointdpm.tasks.guide.config import GuideConfig
    from adjointdpm.tasks.guide.outcome import GuideResult

__all__ = ["FLAGS", "edges", "guide", "summary"]

#: Option of each field of the configuration whose name differs from "--field-name".
FLAGS = SHARED | {
    "prompts": "PROMPT...",
    "seeds": "--seed",
    "low_resolution": "--low-res",
    "weights": "--weight",
    "phrases": "--phrase",
    "shell": "--shell/--no-shell",
    "move_noise": "--move-noise/--no-move-noise",
}
JOINED, EMPTY = ("box", "keep_box"), {"blend": "0", "phrases": "{prompt}"}  # see `command_again`


def guide(
    shell: Shell, given: Mapping[str, Any], config_file: Path | None, resume: bool,
    road: Mapping[str, Any], choice: ModelChoice,
) -> int:  # fmt: skip
    """Run it; the JSON document holds the results and the paths of images, report and record."""
    import adjointdpm as ad
    from adjointdpm.tasks.guide.config import GuideConfig
    from adjointdpm.tasks.guide.run import guide_images as run

    config = task_settings(GuideConfig, given, config_file, task="guide", folder="guided", resume=resume, flags=FLAGS)
    if resume:
        road, choice = recorded_options(config.out, road, choice)
    generator = ad.differentiable(choice.load(), **{name: value for name, value in road.items() if value is not None})
    again = command_again("guide", config, FLAGS, road, choice, joined=JOINED, empty=EMPTY)
    count = len(config.cases)
    label = f"guiding {count} image{'s' if count > 1 else ''}"
    with shell.progress(label, config.updates) as update:

        def on_step(step: int, of: int, loss: float) -> None:
            update(step, f"{label}, loss {loss / count:.4f}")

        result = run(config, generator, on_step=on_step, again=again)
    results = result.record["results"]
    shell.emit(
        {
            "command": "guide",
            "model": choice.name,
            "results": results,
            "images": [result.folder / case["image"] for case in results["cases"]],
            "report": result.report_path,
            "record": result.folder / RECORD,
        }
    )
    for line in summary(config, result):
        shell.say(line)
    return 0


def edges(text: str | None, option: str) -> tuple[float, ...] | None:
    """`"0,0,32,32"` as four numbers."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 4:
        raise InvalidInput(f"{option} {text!r}: expected four numbers, left,top,right,bottom in pixels.")
    return found


def summary(config: GuideConfig, result: GuideResult) -> list[str]:
    """The results for people: each term's median before and after, and the paths."""
    lines = [f"asked for     {config.title}"]
    for term in result.readings[0]:
        before, after = (sorted(pair[term][k] for pair in result.readings) for k in (0, 1))
        middle = (len(before) - 1) // 2
        unit = result.units.get(term, "")
        lines.append(f"{term:<13} {before[middle]:.3g} -> {after[middle]:.3g}{' ' if unit else ''}{unit} (median)")
    judged = [case["recognised"] for case in result.record["results"]["cases"] if "recognised" in case]
    if judged:
        before, after = (sum(column) for column in zip(*judged, strict=True))
        lines.append(f"recognised    {before} -> {after} of {len(judged)} objects (by a judge that is not optimised)")
    return [*lines, f"images        {result.folder}", f"report        {result.report_path}"]
