"""The command that repeats a run in another folder, for its report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.settings import flag

if TYPE_CHECKING:
    from adjointdpm.tasks.settings import TaskConfig

__all__ = ["command_again"]


def command_again(
    command: str,
    config: TaskConfig,
    flags: Mapping[str, str],
    road: Mapping[str, Any],
    choice: ModelChoice,
    joined: Collection[str] = (),
    empty: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """`adjointdpm COMMAND …` with every setting that differs from its default, and `--out` beside the run's folder.

    A preset is left out: what it filled in is said field by field.

    Args:
        command: such as "guide".
        config: the run's.
        flags: the options whose names are not those of their fields; a name without dashes is that of an argument.
        road: options of `ad.differentiable`; None is not said.
        choice: the model.  Its device is left to whoever repeats the run.
        joined: fields whose numbers go into one option, with commas; of others each is an option of its own.
        empty: what the option of a field is given for an empty list.
    """
    options: list[str] = []
    arguments: list[str] = []
    for name, value in config.model_dump(mode="json", exclude_defaults=True, exclude={"out", "preset"}).items():
        option = flag(name, flags)
        if isinstance(value, bool):
            on_or_off = option.split("/")
            options.append(on_or_off[0] if value else on_or_off[-1])
        elif option.startswith("--"):
            texts = _texts(value, name in joined) or ([empty[name]] if name in empty else [])
            options += [f"{option}={text}" for text in texts]
        else:
            arguments += _texts(value, False)
    more = {**road, "model": choice.model, "variant": choice.variant, "dtype": choice.dtype}
    options += [f"--{name}={value}" for name, value in more.items() if value not in (None, "float32")]
    end = ["--"] if any(argument.startswith("-") for argument in arguments) else []
    return shlex.join(["adjointdpm", command, *options, f"--out={config.out}-again", *end, *arguments])


def _texts(value: Any, joined: bool) -> list[str]:
    """What an option is given, once for each time that it is repeated."""
    if isinstance(value, dict):
        return [f"{name}={part if isinstance(part, str) else json.dumps(part)}" for name, part in value.items()]
    if isinstance(value, list):
        texts = [_text(part) for part in value]
        return [",".join(texts)] if joined else texts
    return [_text(value)]


def _text(value: Any) -> str:
    """All digits of a number, and none that says nothing."""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
