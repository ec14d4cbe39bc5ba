"""What a finished run leaves for later: how to repeat it, and of a filter's run its results alone."""

from __future__ import annotations

import json
from typing import Any

from adjointdpm.runs import RunFolder
from adjointdpm.runs.checkpoint import MANIFEST
from adjointdpm.runs.folder import RECORD
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.parties import Given
from adjointdpm.tasks.audit.responsible import WORDS

__all__ = ["RESULTS_FILE", "finished", "forget", "in_python"]

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


def in_python(config: AuditConfig, given: Given) -> str:
    """The call that repeats a run, of the settings in its record and what the record does not hold."""
    unwritten = [name for name in WORDS if config.mode == "filter" and getattr(config, name)]
    settings = [f"'out': {f'{config.out}-again'!r}", *(f"{name!r}: ..." for name in unwritten)]
    handed = [f"{name}=..." for name, found in vars(given).items() if found is not None and found != ()]
    return "\n".join(
        [
            "import json",
            "from adjointdpm.tasks import AuditConfig, run_audit",
            f"settings = json.load(open({str(config.out / RECORD)!r}, encoding='utf-8'))['config']",
            f"config = AuditConfig(**settings | {{{', '.join(settings)}}})",
            f"run_audit(config, {', '.join(['generator', *handed])})",
        ]
    )
