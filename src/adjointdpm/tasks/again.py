"""The call that repeats a run in another folder, for reports of runs whose command is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adjointdpm.tasks.settings import TaskConfig

__all__ = ["in_python"]


def in_python(function: str, config: TaskConfig, handed: Mapping[str, Any] | None = None) -> str:
    """The call of `adjointdpm.tasks.FUNCTION` with every setting that differs from its default.

    A preset is left out: what it filled in is said field by field.  Of the objects that were `handed` to the run beside
    the generator, by name, only the places are shown; None and () were not.
    """
    given = config.model_dump(mode="json", exclude_defaults=True, exclude={"preset"}) | {"out": f"{config.out}-again"}
    fields = ", ".join(f"{name}={value!r}" for name, value in given.items())
    objects = "".join(f", {name}=..." for name, found in (handed or {}).items() if found is not None and found != ())
    return f"adjointdpm.tasks.{function}(adjointdpm.tasks.{type(config).__name__}({fields}), generator{objects})"
