"""How the run of a task is opened: its generator looked at, and its folder with what must agree on resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.formats.fingerprint import fingerprint, weights_hash
from adjointdpm.runs import RunFolder
from adjointdpm.tasks.settings import TaskConfig
from adjointdpm.tasks.team import Team

__all__ = ["check_generator", "run_folder"]


def check_generator(generator: Any) -> None:
    """Raises `InvalidInput` unless it is one of `adjointdpm.differentiable`."""
    if not callable(generator) or not hasattr(generator, "with_"):
        raise InvalidInput(
            f"expected a generator made by adjointdpm.differentiable(pipe), got {type(generator).__name__}"
        )


def _model(pipe: Any) -> dict[str, str]:
    """Hashes of all of a pipeline's networks, and the number format."""
    known = {pipe.components.get(name) for name in ("text_encoder", "unet", "transformer")}
    others = {k: part for k, part in pipe.components.items() if isinstance(part, torch.nn.Module) and part not in known}
    return {
        **fingerprint(pipe),
        **{name: weights_hash(part) for name, part in others.items()},
        "dtype": str(pipe.dtype),
    }


def run_folder(
    task: str, config: TaskConfig, generator: Any, team: Team, again: str | None, facts: Mapping[str, Any] | None = None
) -> RunFolder:
    """The folder `config.out` for a run of `task`, to be entered.

    Settings, model and sampler must be those of the run that is resumed; `facts` too, such as the hash of a file that
    the settings name.  `again` is the command that repeats the run; `run.json` has it.
    """
    pipe = generator.pipe
    identity = {**_model(pipe), **generator.identity(), **(facts or {})}
    device = str(getattr(pipe, "device", "cpu"))
    return RunFolder(config.out, task, config.identity(), identity, device, team=team, free=config.free(), again=again)
