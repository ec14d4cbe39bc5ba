"""Ctrl-C and SIGTERM: finish the step, save, exit with 130 or 143.

Within `with GracefulStop() as stop`, the first signal sets `stop.requested` and says so on stderr; the loop looks at it
after each step, saves, and raises `stop.interruption(...)`.  A second signal acts at once, as without this class.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["GO_ON", "GracefulStop", "RunInterrupted"]

GO_ON = "to go on, give the same command with --resume, or in Python make the same call again"


class RunInterrupted(SystemExit):
    """Raised after a run was saved on a signal; uncaught, it ends the process with 128 + the signal's number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(code)
        self.message = message

    def __str__(self) -> str:
        return self.message


class GracefulStop:
    """Catches SIGINT and SIGTERM while active (in the main thread; elsewhere Python allows no handlers).

    Args:
        unit: what is finished before the run stops, for the line on stderr.
        speaks: whether to write that line; one of several processes does.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, unit: str = "step", *, speaks: bool = True) -> None:
        self.unit, self.speaks = unit, speaks
        self.received: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self.received is not None

    def interruption(self, message: str) -> RunInterrupted:
        """The exception to raise once everything is saved."""
        return RunInterrupted(message, 128 + int(self.received or signal.SIGINT))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()  # so that a second signal ends the process at once
        if self.speaks and sys.stderr is not None:
            # the signal may come while something is being printed, or after the terminal was closed
            with contextlib.suppress(RuntimeError, OSError, ValueError):
                print(f"stopping after this {self.unit}; once more stops at once", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in self.signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
