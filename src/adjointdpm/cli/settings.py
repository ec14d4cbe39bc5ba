"""Options and a settings file -> a task's configuration, or one message in the words of the command line.

A value comes from the command line, else from `--config`, else from the run being resumed, else from the
configuration's preset and defaults; the library validates the whole before any work.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adjointdpm.cli.models import ModelChoice
from adjointdpm.errors import InvalidInput

if TYPE_CHECKING:
    from adjointdpm.tasks.settings import TaskConfig

__all__ = ["FLAGS", "RECORD", "flag", "recorded_options", "task_settings"]

#: Option of each field that all tasks have and whose name differs from "--field-name".
FLAGS = {"negative_prompt": "--negative", "guidance_scale": "--guidance", "batch_size": "--batch"}
RECORD = "run.json"
Config = TypeVar("Config", bound="TaskConfig")


def flag(field: str, flags: Mapping[str, str] = FLAGS) -> str:
    """The option that sets a field."""
    return {**FLAGS, **flags}.get(field, "--" + field.replace("_", "-"))


def task_settings(
    cls: type[Config],
    given: Mapping[str, Any],
    config_file: Path | None = None,
    *,
    task: str,
    folder: str,
    resume: bool = False,
    flags: Mapping[str, str] = FLAGS,
) -> Config:
    """The validated configuration.

    Args:
        cls: the task's configuration.
        given: fields that were given as options; None and empty lists count as not given.
        config_file: YAML or JSON object of fields, or None.
        task: what the record of a run calls the task.
        folder: `out` where neither the options nor the file say it.
        resume: continue the run in `out`, whose settings are the default; without it a run there is refused.
        flags: the options whose names are not those of their fields.

    Raises:
        InvalidInput: an unreadable file, a folder with (or, to resume, without) a run, a field that is not valid.
    """
    from adjointdpm.tasks.settings import load_config, read_settings

    fields = {} if config_file is None else read_settings(config_file, "--config")
    fields |= {name: value for name, value in given.items() if value is not None and value != []}
    out = fields.setdefault("out", folder)
    if isinstance(out, (str, Path)):  # else the configuration says what is wrong with it
        if not resume and _speaks() and (Path(out) / RECORD).exists():
            raise InvalidInput(
                f"--out {out} holds a run already; say --resume to go on with it, or choose another folder."
            )
        fields = (_recorded(Path(out), task) if resume else {}) | fields
    return load_config(cls, None, fields, named=lambda field: flag(field, flags))


def _speaks() -> bool:
    """Whether this is the main one of the processes of a launcher: the others may find the run that it has begun."""
    return os.environ.get("RANK", "0") == "0"


def recorded_options(out: Path, road: Mapping[str, Any], choice: ModelChoice) -> tuple[dict[str, Any], ModelChoice]:
    """Road and model of the run in `out` where the command line says nothing of them; its device is not the run's."""
    command = str(_record(out).get("again"))
    words = shlex.split(command) if command.startswith("adjointdpm ") else []  # else the run was begun from Python
    words = words[: words.index("--")] if "--" in words else words
    said = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    whole = {name: said.get(name) if value is None else value for name, value in road.items()}
    dtype = said.get("dtype", choice.dtype) if choice.dtype == ModelChoice.dtype else choice.dtype
    model, variant = choice.model or said.get("model"), choice.variant or said.get("variant")
    return whole, replace(choice, model=model, variant=variant, dtype=dtype)


def _record(out: Path) -> dict[str, Any]:
    from adjointdpm.tasks.settings import read_settings

    record = out / RECORD
    if not record.is_file():
        raise InvalidInput(
            f"--resume: there is no run in {out} ({RECORD} is missing); leave --resume out to start one."
        )
    whole = read_settings(record, "--resume")
    if not isinstance(whole.get("config"), dict):
        raise InvalidInput(f"--resume: {record} is not the record of a run; choose a new folder.")
    return whole


def _recorded(out: Path, task: str) -> dict[str, Any]:
    """The settings of the run of `task` in `out`."""
    whole = _record(out)
    if whole.get("task") != task:
        raise InvalidInput(f"--resume: {out} holds a run of {whole.get('task')}, not of {task}; choose its own folder.")
    found, free = whole["config"], whole.get("free")
    return {**(free if isinstance(free, dict) else {}), **found}
