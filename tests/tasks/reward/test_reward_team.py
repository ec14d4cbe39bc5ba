"""Two processes of `accelerate launch` learn what one learns, whatever is optimised."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adjointdpm.numerics import relative_error
from adjointdpm.runs import load_tensors, read_jsonl
from tests.support import reward_program

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
    program = str(ROOT / "tests/support/reward_program.py")
    ran = subprocess.run(
        [*command, program, str(folder)], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    threads = torch.get_num_threads()
    reward_program.main(folder)
    torch.set_num_threads(threads)
    return folder


def joined(folder, name, part):
    found, _ = load_tensors(folder / f"{name}.safetensors")
    chosen = [value.double().reshape(-1) for key, value in sorted(found.items()) if key.startswith(part)]
    assert chosen
    return torch.cat(chosen)


@pytest.mark.parametrize("case", list(reward_program.CASES))
def test_first_gradient_and_five_steps(folder, case):
    gradient = joined(folder, "1-0", f"gradient.{case}.")
    assert float(gradient.norm()) > 0
    assert relative_error(joined(folder, "2-0", f"gradient.{case}."), gradient) < 1e-6
    after = joined(folder, "1-0", f"after.{case}.")
    assert after.dtype == torch.float64
    assert relative_error(joined(folder, "2-0", f"after.{case}."), after) < 1e-8


@pytest.mark.parametrize("case", list(reward_program.CASES))
def test_scores_and_curves_are_those_of_all_images(folder, case):
    one, both = (json.loads((folder / f"{name}.json").read_text())[case] for name in ("1-0", "2-0"))
    assert both["seen"]["reward"]["images"] == 3
    for where in ("seen", "unseen"):
        for name, change in (one[where] or {}).items():
            assert both[where][name]["after"] == pytest.approx(change["after"], rel=1e-5), (where, name)
    assert json.loads((folder / "2-1.json").read_text())[case]["seen"] == both["seen"]
    curves = [
        {row["step"]: row["rewards"] for row in read_jsonl(folder / size / case / "log.jsonl") if "rewards" in row}
        for size in ("1", "2")
    ]
    assert sorted(curves[0]) == sorted(curves[1]) == [1, 2, 3, 4, 5]
    for step, rewards in curves[0].items():
        assert curves[1][step] == pytest.approx(rewards, rel=1e-6)
