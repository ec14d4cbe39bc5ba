"""`adjointdpm reward`: options and a settings file -> the task's configuration, the run, and what came out of it.

The options mirror `tasks.RewardConfig`.
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
    from adjointdpm.tasks import RewardConfig, RewardResult

__all__ = ["FLAGS", "reward", "settings"]

#: Option of each field of the configuration whose name differs from "--field-name".
FLAGS = SHARED | {
    "prompts": "PROMPT...",
    "seeds": "--seed",
    "rewards": "--reward",
    "variant": "--placement",
    "unseen_prompts": "--unseen-prompt",
    "unseen_seeds": "--unseen-seed",
}
VERDICTS = {
    "no held-out reward": "no held-out reward watched (--held-out)",
    "hacked": "HACKED: it rose while the held-out reward fell",
    "confirmed": "the held-out reward rose too",
    "undecided": "the change of the held-out reward cannot be told from chance",
}


def reward(
    shell: Shell, given: Mapping[str, Any], config_file: Path | None, resume: bool,
    road: Mapping[str, Any], choice: ModelChoice,
) -> int:  # fmt: skip
    """Run it; the JSON document holds the verdict, the results and the paths of files, report and record."""
    config = settings(given, config_file, resume)
    if resume:
        road, choice = recorded_options(config.out, road, choice)

    import adjointdpm as ad

    roads = {name: value for name, value in road.items() if value is not None}
    generator = ad.differentiable(choice.load(), **roads)
    label = f"optimising {config.optimise}"
    with shell.progress(label, config.loop_settings().epochs) as update:
        result = ad.tasks.maximise_reward(
            config,
            generator,
            on_step=lambda n, of, loss: update(n, f"{label}, reward {-loss:.4g}"),
            again=command_again("reward", config, FLAGS, road, choice),
        )
    if result.verdict == "hacked":
        shell.warn("reward hacking: the optimised reward rose while the held-out one fell; see the report")
    shell.emit(
        {
            "command": "reward",
            "model": choice.name,
            "verdict": result.verdict,
            "results": result.results,
            "files": result.files,
            "report": result.report_path,
            "record": result.folder / RECORD,
        }
    )
    for line in summary(config, result):
        shell.say(line)
    return 0


def settings(given: Mapping[str, Any], config_file: Path | None, resume: bool) -> RewardConfig:
    """The validated configuration; see `task_settings`."""
    from adjointdpm.tasks import RewardConfig

    return task_settings(RewardConfig, given, config_file, task="reward", folder="reward", resume=resume, flags=FLAGS)


def summary(config: RewardConfig, result: RewardResult) -> list[str]:
    """The results for people."""
    lines = []
    for where in ("seen", "unseen"):
        for name, change in (result.results[where] or {}).items():
            if name == "reward" and len(config.rewards) == 1 and config.terms[0].weight == 1:
                continue  # the one reward says the same
            place = "" if config.optimise == "noise" else f", {where} images"
            lines.append(f"{name}{place}: {change['before']:.4g} -> {change['after']:.4g}")
    shown = [str(path) for path in result.files[:4]]
    more = [f"… {len(result.files)} files"] if len(result.files) > len(shown) else []
    return [
        *lines,
        f"verdict       {VERDICTS[result.verdict]}",
        *(f"written       {path}" for path in (*shown, *more)),
        f"report        {result.report_path}",
    ]
