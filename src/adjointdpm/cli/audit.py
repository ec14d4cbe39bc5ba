"""`adjointdpm audit`: options and a settings file -> the task's configuration, the run, and what came out of it.

The options mirror `tasks.AuditConfig`.  Nothing that is printed says more than the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.cli.again import command_again
from adjointdpm.cli.boundary import FAILED
from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.settings import FLAGS as SHARED
from adjointdpm.cli.settings import recorded_options, task_settings
from adjointdpm.cli.shell import Shell
from adjointdpm.errors import InvalidInput

if TYPE_CHECKING:
    from adjointdpm.tasks import AuditConfig, AuditResult

__all__ = ["FLAGS", "UNREACHED", "audit", "settings"]

UNREACHED = 3  # exit code: done, and no verdict changed within the largest bound

#: Option of each field of the configuration whose name differs from "--field-name".
FLAGS = SHARED | {
    "prompts": "PROMPT...",
    "preprocessing": "--preprocess",
    "labels": "--label",
    "classes": "--class-name",
    "taus": "--tau",
    "baselines": "--baseline",
    "control_prompts": "--control-prompt",
    "generator_options": "--generator-option",
}


def audit(
    shell: Shell, given: Mapping[str, Any], config_file: Path | None, resume: bool,
    road: Mapping[str, Any], choice: ModelChoice,
) -> int:  # fmt: skip
    """Run the audit; 0, or 3 where no verdict changed within the largest bound, or 1 where nothing was measured."""
    config = settings(given, config_file, resume)
    if resume:
        road, choice = recorded_options(config.out, road, choice)

    import adjointdpm as ad

    pipe = _pipeline(config, choice)
    generator = ad.differentiable(pipe, **{name: value for name, value in road.items() if value is not None})
    with shell.progress("audit", 1000) as update:

        def on_progress(done: int, of: int, what: str) -> None:
            update(1000 * done // of, f"audit, {what.replace('_', ' ')}")

        def again(shown: AuditConfig) -> str:
            return command_again("audit", shown, FLAGS, road, choice, empty={"baselines": "none"})

        result = ad.tasks.run_audit(config, generator, on_progress=on_progress, again=again)
    name = config.generator or choice.name
    paths = {"results": result.results_path, "report": result.report_path, "found": result.found}
    kept = {k: v for k, v in result.results.items() if k not in ("config", "environment")}
    shell.emit({"command": "audit", "model": name, **kept, **paths})
    shell.say(*_tables(config, result))
    for line in _summary(config, result):
        shell.say(line)
    if not result.results["n"]:
        shell.error(result.results["headline"])
        return FAILED
    return UNREACHED if result.unreached else 0


def settings(given: Mapping[str, Any], config_file: Path | None, resume: bool) -> AuditConfig:
    """The validated configuration; see `task_settings`."""
    from adjointdpm.tasks import AuditConfig

    return task_settings(AuditConfig, given, config_file, task="audit", folder="audit", resume=resume, flags=FLAGS)


def _pipeline(config: AuditConfig, choice: ModelChoice) -> Any:
    """The pipeline of --generator, or of --model."""
    if config.generator is None:
        return choice.load()
    if choice.model is not None:
        raise InvalidInput("--generator and --model both name the pipeline: give one of them")
    from adjointdpm.cli.models import quiet_libraries, torch_device, torch_dtype
    from adjointdpm.losses.load import load_function
    from adjointdpm.losses.users import blamed

    quiet_libraries()
    make = load_function(config.generator)
    with blamed(f"--generator {config.generator}"):
        pipe = make(**config.generator_options)
    if not callable(getattr(pipe, "to", None)):
        raise InvalidInput(f"--generator {config.generator} made {type(pipe).__name__}; expected a diffusers pipeline")
    pipe.to(torch_device(choice.device), torch_dtype(choice.dtype))
    return pipe


def _tables(config: AuditConfig, result: AuditResult) -> list[Any]:
    from rich import box
    from rich.table import Table

    from adjointdpm.tasks.audit.chart import METHOD_NAMES
    from adjointdpm.tasks.audit.outcome import share_text

    found = result.results["methods"]
    title = "Verdict changed while the class is still shown, with 95 % intervals"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("")
    for row in found["exact"]["rates"]:
        table.add_column(config.bound_text(row["tau"]), justify="right")
    for name, method in found.items():
        table.add_row(METHOD_NAMES.get(name, name), *map(share_text, method["rates"]))
    return [table]


def _summary(config: AuditConfig, result: AuditResult) -> list[str]:
    from adjointdpm.tasks.audit.outcome import share_text, unreached

    found = result.results
    lines = [found["headline"]] if found["n"] else []
    lines += [f"look: {check['name']}: {check['finding']}" for check in found["sanity"] if check["passed"] is False]
    if found["hardening"]:
        before, after = (share_text(found["hardening"][when]["rates"][-1]) for when in ("before", "after"))
        lines.append(f"hardened: {before} -> {after} on held-out noises")
    if result.unreached:
        lines.append(f"{unreached(config)} This is exit code {UNREACHED}.")
    return [*lines, *(str(path) for path in (result.results_path, result.report_path, result.found) if path)]
