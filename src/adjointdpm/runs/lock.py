"""One run per folder: a lock that the kernel frees when its holder dies.

The lock is an operating-system file lock, so a killed run leaves nothing stale behind: the file stays, the lock does
not.  Who holds it is written beside it, for the error message of the second run.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from adjointdpm.runs.atomic import OutputError, atomic_write, write_failure

__all__ = ["FolderLock"]


class FolderLock:
    """Context manager that holds `folder` (created if absent) for this process.

    Raises `OutputError` naming process and host if another run has it, also one in the same process.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.owner_file = self.folder / ".lock-owner.json"
        self._lock: object | None = None

    def acquire(self) -> FolderLock:
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failure(self.folder, error) from error
        lock = FileLock(str(self.folder / ".lock"), is_singleton=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"the output folder {self.folder} is in use by {self._owner()}. "
                "Wait for that run to end, or choose another folder."
            ) from None
        except OSError as error:
            raise write_failure(self.folder, error) from error
        self._lock = lock
        atomic_write(self.owner_file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        return self

    def release(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self.owner_file.unlink()
            self._lock.release()  # type: ignore[attr-defined]
            self._lock = None

    def _owner(self) -> str:
        try:
            owner = json.loads(self.owner_file.read_text(encoding="utf-8"))
            return f"process {owner['pid']} on host {owner['host']}"
        except (OSError, ValueError, KeyError):
            return "another process"  # it is just starting or just ending

    def __enter__(self) -> FolderLock:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
