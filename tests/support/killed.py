"""A task killed by SIGKILL and resumed, beside the same task undisturbed, for tests that compare what both left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["run_whole_and_killed"]


def run_whole_and_killed(program: str, folder: Path) -> None:
    """Run `program` with `FOLDER/whole`, then with `FOLDER/cut`: killed twice on the way, and resumed to its end.

    `program` takes its folder from `sys.argv[1]`, goes on where it was, and prints a line after each step.
    """
    assert _start(program, folder / "whole").wait(timeout=240) == 0
    for pause in (0.05, 0.21):  # somewhere between two lines: in a step, or in the middle of writing a checkpoint
        process = _start(program, folder / "cut")
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert _start(program, folder / "cut").wait(timeout=240) == 0


def _start(program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
