"""A run's folder: locked while in use, its record checked before anything is resumed.

`run.json` holds the settings, the environment and, at the end, the results.  Opening an existing folder resumes
it if the configuration is the same; if it differs, the fields that differ are named and nothing is touched.

Processes that share a run share its folder: the main one locks and writes it, the others read it once it is locked.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from adjointdpm.errors import InvalidInput, NumericalWarning
from adjointdpm.runs.atomic import OutputError, atomic_write
from adjointdpm.runs.checkpoint import MANIFEST, Checkpoint, load_checkpoint, save_checkpoint
from adjointdpm.runs.environment import environment, environment_differences
from adjointdpm.runs.lock import FolderLock
from adjointdpm.runs.log import JsonlLog, NoLog

__all__ = ["RECORD", "RunFolder"]

RECORD = "run.json"
LONGEST = 80  # characters of a setting in a message


class Group(Protocol):
    """The processes that share a run; `tasks.Team` is one."""

    @property
    def main(self) -> bool: ...

    def agree(self, flag: bool) -> bool: ...


class _Alone:
    main = True

    def agree(self, flag: bool) -> bool:
        return flag


class RunFolder:
    """Context manager for one run of `task` with `config` (plain JSON values) in `path`; `free` are the settings that
    may differ on resume and `again` the command that repeats it, recorded so that whoever resumes it finds them.

    Inside it, `resumed` is the checkpoint to continue from (or None), `log` the JSONL log, `record` what `run.json`
    holds.  `identity` holds further facts that must agree on resume, such as the hash of the model.  Nothing is written
    before `begin`: if the task finds its inputs bad before that, a folder that was not there is gone again.  Raises
    `OutputError` if the folder is in use, `InvalidInput` if it holds something else or a run of other settings.

    With a `team`, every process of it opens the folder; `log`, `save` and `finish` write in the main one only.
    """

    def __init__(
        self,
        path: Path | str,
        task: str,
        config: Mapping[str, Any],
        identity: Mapping[str, Any] | None = None,
        device: str = "cpu",
        *,
        team: Group | None = None,
        free: Mapping[str, Any] | None = None,
        again: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.task = task
        self.config = json.loads(json.dumps(dict(config)))
        self.identity = json.loads(json.dumps(dict(identity or {})))
        self.free = json.loads(json.dumps(dict(free or {})))
        self.again = again
        self.environment = environment(device)
        self.record: dict[str, Any] = {}
        self.resumed: Checkpoint | None = None
        self.log: JsonlLog | NoLog
        self._team: Group = team or _Alone()
        self._lock = FolderLock(self.path)
        self._new: list[Path] = []  # the folders that are made for this run, the innermost first

    def __enter__(self) -> RunFolder:
        self._together(self._take if self._team.main else _nothing)
        try:  # the main process waits here until the others have read what it is about to change
            self._together(_nothing if self._team.main else self._open)
        except BaseException:
            self._lock.release()
            raise
        return self

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self._team.main

    def _take(self) -> None:
        there = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not there.is_dir():
            where = "is a file" if there == self.path else f"cannot be made: {there} is a file"
            raise InvalidInput(f"the output folder {self.path} {where}; choose another name")
        self._new = [folder for folder in (self.path, *self.path.absolute().parents) if not folder.exists()]
        self._lock.acquire()
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _together(self, part: Callable[[], None]) -> None:
        """Do this process's part; raises in every process if one of them fails."""
        try:
            part()
        except BaseException:
            self._team.agree(True)
            raise
        if self._team.agree(False):
            raise OutputError(f"another process of this run failed with {self.path}; its message says why")

    def begin(self) -> None:
        """Write the record and open the log; from here on the folder holds a run."""
        self.record |= {"status": "running", "free": self.free, "again": self.again}
        self.log = NoLog()
        self._together(self._begin if self._team.main else _nothing)

    def _begin(self) -> None:
        self._write_record()
        self.log = JsonlLog(self.path / "log.jsonl", keep_steps=self.resumed.step if self.resumed else 0)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._team.main:
            return
        self._lock.release()
        if self._new and not (self.path / RECORD).exists():
            with contextlib.suppress(OSError):  # never remove what someone else has put there meanwhile
                (self.path / ".lock").unlink(missing_ok=True)
                for folder in self._new:
                    folder.rmdir()

    def _open(self) -> None:
        record_file = self.path / RECORD
        strangers = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
        if record_file.exists():
            self._check(record_file)
            self.resumed = load_checkpoint(self.path)
        elif strangers:
            raise InvalidInput(
                f"the output folder {self.path} is not empty and holds no run ({', '.join(sorted(strangers)[:3])}…): "
                "choose a new or empty folder"
            )
        else:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.record = {"task": self.task, "started": now, "status": "new", "config": self.config}
            self.record |= {"identity": self.identity, "environment": self.environment}

    def _check(self, record_file: Path) -> None:
        """Compare the record found with this run; sets `record`."""
        try:
            found = json.loads(record_file.read_text(encoding="utf-8"))
            before = {**found["config"], **{f"model: {k}": v for k, v in found["identity"].items()}}
            task, known = found["task"], found["environment"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{record_file} is not a readable run record ({error!r}): choose a new folder"
            ) from error
        if task != self.task:
            raise InvalidInput(f"{self.path} holds a run of {task!r}, not of {self.task!r}: choose a new folder")
        now = {**self.config, **{f"model: {k}": v for k, v in self.identity.items()}}
        missing = object()
        changed = [
            f"{key} ({_difference(before.get(key), now.get(key))})"
            for key in sorted(before.keys() | now.keys())
            if before.get(key, missing) != now.get(key, missing)
        ]
        if changed:
            raise InvalidInput(
                f"{self.path} holds a run with other settings: {'; '.join(changed)}. "
                "Use the same settings to resume it, or choose a new folder."
            )
        differences = environment_differences(known, self.environment)
        if differences and (self.path / MANIFEST).exists() and self._team.main:
            warnings.warn(
                f"resuming in another environment ({'; '.join(differences)}): the result may differ in its last digits",
                NumericalWarning,
                stacklevel=6,
            )
        self.record = found
        if differences:
            self.record.setdefault("resumed_in", []).append(self.environment)

    def save(self, checkpoint: Checkpoint) -> None:
        """Checkpoint now; `OutputError` if the disk does not take it (the previous one stands)."""
        if self._team.main:
            save_checkpoint(self.path, checkpoint)

    def finish(self, status: str, results: Mapping[str, Any] | None = None) -> None:
        """Write the record with its final status ("finished", "interrupted", "failed") and the results."""
        self.record["status"] = status
        if results is not None:
            self.record["results"] = dict(results)
        if self._team.main:
            self._write_record()

    def _write_record(self) -> None:
        atomic_write(self.path / RECORD, json.dumps(self.record, indent=1, ensure_ascii=False))


def _nothing() -> None:
    pass


def _difference(before: Any, now: Any) -> str:
    if any(isinstance(value, dict) and "sha256" in value for value in (before, now)):
        return "other words than before, which are not shown"
    return f"was {_shown(before)}, now {_shown(now)}"


def _shown(value: Any) -> str:
    """A setting in a message; long ones are cut."""
    text = "not given" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
