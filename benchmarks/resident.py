"""Growth of a process's resident memory, beside the exact figure of live tensor bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adjointdpm.numerics import resident_bytes


def growth_during(work: Callable[[], Any]) -> int:
    """Bytes by which the high-water mark during `work` exceeds what is resident before it (Linux)."""
    before = resident_bytes() or 0
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark of loading and building
    work()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return max(0, int(status["VmHWM"].split()[0]) * 1024 - before)
