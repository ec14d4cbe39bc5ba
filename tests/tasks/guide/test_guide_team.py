"""Two processes of `accelerate launch` guide as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adjointdpm.numerics import relative_error
from adjointdpm.runs import load_tensors
from tests.support import guide_program

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of the same program in one process and in two."""
    folder = tmp_path_factory.mktemp("team")
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "--main_process_port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = str(ROOT / "tests/support/guide_program.py")
    ran = subprocess.run(
        [*command, program, str(folder)], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    threads = torch.get_num_threads()
    guide_program.main(folder)
    torch.set_num_threads(threads)
    return folder


def joined(folder, name, part):
    found, _ = load_tensors(folder / f"{name}.safetensors")
    chosen = [value.double().reshape(-1) for key, value in sorted(found.items()) if key.startswith(part)]
    assert chosen
    return torch.cat(chosen)


@pytest.mark.parametrize("case", list(guide_program.CASES))
def test_first_gradient_five_steps_and_images(folder, case):
    gradient = joined(folder, "1-0", f"gradient.{case}.")
    assert float(gradient.norm()) > 0
    assert relative_error(joined(folder, "2-0", f"gradient.{case}."), gradient) < 1e-6
    after = joined(folder, "1-0", f"after.{case}.")
    assert after.dtype == torch.float64
    assert relative_error(joined(folder, "2-0", f"after.{case}."), after) < 1e-8
    images = joined(folder, "1-0", f"images.{case}")
    for process in ("2-0", "2-1"):
        assert torch.allclose(joined(folder, process, f"images.{case}"), images, atol=1e-6)


def test_what_is_read_and_written_is_of_all_images(folder):
    one, main, other = (json.loads((folder / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert main == other
    for case, readings in one.items():
        assert len(readings) == 3
        for ours, theirs in zip(readings, main[case], strict=True):
            for term in ours:
                assert theirs[term] == pytest.approx(ours[term], abs=1e-3)
        names = {path.name for path in (folder / "2" / case).iterdir() if path.suffix in (".png", ".html")}
        assert {"guided.png", "report.html", "0002-red-apple-seed3.png"} <= names
