"""SIGKILL at any moment, then the same command again: the same counts and rows as without it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = str(ROOT / "tests/tasks/audit/program.py")


def start(mode, folder):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, PROGRAM, mode, str(folder)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    stderr = (folder / "stderr").open("w")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT, env=environment)


@pytest.mark.full
@pytest.mark.timeout(900)  # processes, each of which imports everything
@pytest.mark.parametrize("mode", ["classifier", "filter"])
def test_killed_twice_and_resumed_gives_the_same(tmp_path, mode):
    whole = start(mode, tmp_path / "whole")
    assert whole.wait(timeout=240) == 0
    for lines, pause in ((4, 0.05), (7, 0.11)):  # within a method, and maybe in the middle of writing a checkpoint
        process = start(mode, tmp_path / "cut")
        for _ in range(lines):
            process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(mode, tmp_path / "cut").wait(timeout=240) == 0
    found = [json.loads((tmp_path / name / f"{mode}-1-0.json").read_text()) for name in ("whole", "cut")]
    assert found[0] == found[1]
    assert found[0]["n"] == 5


@pytest.mark.timeout(300)
def test_a_signal_saves_and_says_so(tmp_path):
    process = start("classifier", tmp_path / "cut")
    while "adjoint" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    process.stdout.read()
    assert process.wait(timeout=120) == 143
    assert (tmp_path / "cut" / "stderr").read_text().endswith("stopping after this batch; once more stops at once\n")
    record = json.loads((tmp_path / "cut" / "classifier-1" / "run.json").read_text())
    assert record["status"] == "interrupted"
