"""What a command writes to: results on stdout, everything else on stderr.

With `--json`, stdout carries one JSON document and nothing else, so that `adjointdpm check --json | jq` works; the
tables and sentences meant for people are dropped, warnings and progress bars stay on stderr.  Bars need a terminal:
without one (a log file, a pipe) a line is written when a job starts.  NO_COLOR and dumb terminals are rich's business.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from rich.console import Console

WIDTH = 120  # of tables in a file or a pipe


class Update(Protocol):
    """What a progress bar yields."""

    def __call__(self, done: int, text: str = ...) -> None: ...


class Shell:
    """The two streams of one command.

    Args:
        as_json: stdout is reserved for one JSON document.
        stdout, stderr: text streams, by default those of the process.
        mute: only errors are heard, as of a process that shares the work of another one which speaks.
    """

    def __init__(
        self,
        as_json: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        *,
        mute: bool = False,
    ) -> None:
        self.as_json, self.mute = as_json, mute
        self.warnings: list[str] = []
        self._stdout = stdout or sys.stdout
        self._out = Console(file=self._stdout, highlight=False, emoji=False, soft_wrap=True)
        if not self._out.is_terminal:
            self._out.width = WIDTH
        self._err = Console(file=stderr or sys.stderr, highlight=False, emoji=False, soft_wrap=True)

    @classmethod
    def of(cls, made: Any, as_json: bool) -> Shell:
        """The shell that the boundary made, or a new one where the app is run without it."""
        return made if isinstance(made, cls) else cls(as_json)

    def say(self, *renderables: Any) -> None:
        """A result for people: text or a rich table on stdout; nothing with `--json`.  Text is taken literally."""
        if not self.as_json and not self.mute:
            self._out.print(*renderables, markup=False)

    def note(self, text: str) -> None:
        """A remark about the run, on stderr in both modes."""
        if self.mute:
            return
        self._err.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A warning on stderr; also kept for the JSON document."""
        self.warnings.append(text)
        if self.mute:
            return
        self._err.print("warning:", style="yellow", end=" ")
        self._err.print(text, markup=False)

    def error(self, text: str) -> None:
        self._err.print("error:", style="bold red", end=" ")
        self._err.print(text, markup=False)

    def traceback(self) -> None:
        """The traceback of the exception being handled, on stderr."""
        import traceback

        self._err.print(traceback.format_exc(), markup=False)

    def emit(self, document: dict[str, Any]) -> None:
        """The command's JSON document with the warnings so far, only with `--json`; NaN and infinities become null."""
        if self.as_json and not self.mute:
            document = document | {"warnings": self.warnings}
            self._stdout.write(json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            self._stdout.flush()

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Update]:
        """A bar on stderr; the body calls the yielded function with the units done so far, and maybe a new label."""
        if self.mute or not self._err.is_terminal:
            self.note(f"{label} …")
            yield lambda done, text=label: None
            return
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._err, transient=True, refresh_per_second=4) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done, text=label: bar.update(task, completed=done, description=text)


def _plain(value: Any) -> Any:
    """`value` with what JSON has no word for replaced: paths by text, tuples by lists, NaN and infinities by null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
