"""Options and a settings file -> a task's configuration, or one message in the words of the command line.

A value comes from the command line, else from `--config`, else from the run being resumed, else from the
configuration's preset and defaults; the library validates the whole before any work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adjointdpm.errors import InvalidInput

if TYPE_CHECKING:
    from adjointdpm.tasks.settings import TaskConfig

__all__ = ["FLAGS", "RECORD", "flag", "task_settings"]

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
    resume: bool = False,
    flags: Mapping[str, str] = FLAGS,
    reworded: Callable[[str], str] | None = None,
) -> Config:
    """The validated configuration.

    Args:
        cls: the task's configuration.
        given: fields that were given as options, `out` among them; None and empty lists count as not given.
        config_file: YAML or JSON object of fields, or None.
        resume: continue the run in `given["out"]`, whose settings are the default; without it a run there is refused.
        flags: the options whose names are not those of their fields.
        reworded: puts options for fields in a message about several of them; names of several words by default.

    Raises:
        InvalidInput: an unreadable file, a folder with (or, to resume, without) a run, a field that is not valid.
    """
    from adjointdpm.tasks.settings import load_config, read_settings

    out = Path(given["out"])
    if not resume and _speaks() and (out / RECORD).exists():
        raise InvalidInput(f"--out {out} holds a run already; say --resume to go on with it, or choose another folder.")
    fields = _recorded(out) if resume else {}
    if config_file is not None:
        fields |= read_settings(config_file, "--config")
    fields |= {name: value for name, value in given.items() if value is not None and value != []}

    def with_flags(message: str) -> str:
        for name in cls.model_fields:
            if "_" in name:
                message = re.sub(rf"\b{name}\b", flag(name, flags), message)
        return message

    return load_config(cls, None, fields, named=lambda field: flag(field, flags), reworded=reworded or with_flags)


def _speaks() -> bool:
    """Whether this is the main one of the processes of a launcher: the others may find the run that it has begun."""
    return os.environ.get("RANK", "0") == "0"


def _recorded(out: Path) -> dict[str, Any]:
    """The settings of the run in `out`."""
    from adjointdpm.tasks.settings import read_settings

    record = out / RECORD
    if not record.is_file():
        raise InvalidInput(
            f"--resume: there is no run in {out} ({RECORD} is missing); leave --resume out to start one."
        )
    whole = read_settings(record, "--resume")
    found = whole.get("config")
    if not isinstance(found, dict):
        raise InvalidInput(f"--resume: {record} is not the record of a run; choose a new folder.")
    free = whole.get("free")
    return {**(free if isinstance(free, dict) else {}), **found}
