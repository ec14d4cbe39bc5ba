"""Curves for those who watch runs in tensorboard or wandb; `log.jsonl` is written whatever is chosen here.

A tracker never stops a run: one that fails is given up with a warning.  Nothing leaves the machine unless the user's
environment says so: wandb keeps its files beside the run (`wandb sync` uploads them) unless WANDB_MODE is set.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.tasks.team import Team

__all__ = ["Tracker", "open_tracker"]

TRACKERS = ("none", "tensorboard", "wandb")


class Tracker(Protocol):
    """Takes figures by step."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """Takes figures and keeps none."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class _Lazy:
    """Opens its backend at the first figures, so that a run that is refused before leaves no files."""

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self.name, self._start = name, start
        self._backend: Tracker | None = None
        self._given_up = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        def write() -> None:
            self._backend = self._backend or self._start()
            self._backend.log(step, values)

        self._attempt(write)

    def close(self) -> None:
        if self._backend is not None:
            self._attempt(self._backend.close)
            self._backend = None

    def _attempt(self, action: Callable[[], None]) -> None:
        if self._given_up:
            return
        try:
            action()
        except Exception as error:
            self._given_up = True
            warnings.warn(f"{self.name} is given up, the run goes on: {error}", InputWarning, stacklevel=3)


class _Tensorboard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """One wandb run for each folder; a resumed run goes on in it."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "adjointdpm"),
            name=folder.name,
            id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(config),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def open_tracker(name: str, folder: Path | str, config: Mapping[str, Any], team: Team | None = None) -> Tracker:
    """A tracker that writes into `folder`, with the settings `config` (plain values); close it at the end.

    Nothing is written before the first figures, and nothing by other processes than the main one.

    Raises:
        InvalidInput: an unknown name, or its package is not installed; says what installs it.
    """
    if name not in TRACKERS:
        raise InvalidInput(f"tracker={name!r}: expected one of {', '.join(TRACKERS)}")
    if name != "none" and importlib.util.find_spec(name) is None:
        raise InvalidInput(f"tracker={name!r} needs the package {name}: pip install 'adjointdpm[{name}]'")
    if name == "none" or (team is not None and not team.main):
        return NoTracker()
    folder = Path(folder)
    if name == "tensorboard":
        return _Lazy(name, lambda: _Tensorboard(folder))
    return _Lazy(name, lambda: _Wandb(folder, config))
