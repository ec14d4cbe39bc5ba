"""The recipe for AlignProp's users, under `accelerate launch` with two processes."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

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


def test_it_runs_under_accelerate_launch(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "--main_process_port", "0"]
    command += [str(ROOT / "examples/align_lora.py"), "--tiny", "--out", str(tmp_path / "lora")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("4/4") == 1  # one process speaks
    assert "on prompts that it never saw" in ran.stdout
    weights = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert any(name.endswith("lora.up.weight") and float(w.abs().max()) > 0 for name, w in weights.items())
    with Image.open(tmp_path / "lora" / "fox.png") as image:
        assert image.size == (16, 16)
    assert (tmp_path / "lora" / "report.html").is_file()
