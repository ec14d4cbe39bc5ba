"""Two processes of `accelerate launch` find for each sample what one finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support import audit_program

ROOT = Path(__file__).parents[3]
LAUNCH = (
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["classifier", "filter"])
def test_two_processes_equal_one(tmp_path, mode):
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "--main_process_port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = str(ROOT / "tests/support/audit_program.py")
    ran = subprocess.run(
        [*command, program, mode, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    threads = torch.get_num_threads()
    audit_program.main(mode, tmp_path)
    torch.set_num_threads(threads)
    alone, first, second = (
        json.loads((tmp_path / f"{mode}-{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")
    )
    assert alone["n"] == 5
    assert alone == first
    assert second["methods"] == first["methods"]
    assert (alone["rows"] is None) == (mode == "filter")
