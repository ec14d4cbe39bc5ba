"""The log of a run: one JSON object per line, one line per optimizer step.

A killed process can leave half a line at the end, and steps that its last checkpoint does not know.  Both are cut off
when the run resumes, so that the log of a resumed run equals that of an uninterrupted one (but for the seconds).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adjointdpm.runs.atomic import atomic_write, write_failure

__all__ = ["JsonlLog", "NoLog", "read_jsonl"]


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """The complete lines of a log; a damaged last line is left out.  An absent file gives an empty list."""
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


class JsonlLog:
    """Appends to `path`; `keep_steps` drops rows with `row["step"] > keep_steps` first (None: keep all)."""

    def __init__(self, path: Path | str, keep_steps: int | None = None) -> None:
        self.path = Path(path)
        rows = read_jsonl(self.path)
        kept = rows if keep_steps is None else [row for row in rows if int(row.get("step", 0)) <= keep_steps]
        atomic_write(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: dict[str, Any]) -> None:
        """Append one row and hand it to the system at once; raises `OutputError` if that fails."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise write_failure(self.path, error) from error


class NoLog:
    """The log of a process that does not write."""

    def write(self, row: dict[str, Any]) -> None:
        pass
