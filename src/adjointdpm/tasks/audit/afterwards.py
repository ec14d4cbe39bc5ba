"""What a filter's finished run leaves for later: its results alone."""

from __future__ import annotations

import json
from typing import Any

from adjointdpm.runs import RunFolder
from adjointdpm.runs.checkpoint import MANIFEST

__all__ = ["RESULTS_FILE", "finished", "forget"]

RESULTS_FILE = "results.json"


def finished(run: RunFolder) -> dict[str, Any] | None:
    """The results of a finished run whose checkpoint is not kept; None if there is work to do."""
    file = run.path / RESULTS_FILE
    if run.record["status"] != "finished" or not file.is_file():
        return None
    if run.main:
        forget(run)  # where the process was killed before it had done so
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return results


def forget(run: RunFolder) -> None:
    """Remove the checkpoint of a finished run."""
    for file in (run.path / MANIFEST, *run.path.glob("checkpoint-*")):
        file.unlink(missing_ok=True)
