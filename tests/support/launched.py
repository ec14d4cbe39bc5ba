"""A program under `accelerate launch` with two processes, and the same in this process, for tests that compare both.

With --cpu, accelerate starts one process unless it has mpirun; --multi_gpu starts two, on CPUs too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import torch

from adjointdpm.runs import load_tensors

__all__ = ["joined", "launch", "launch_both"]

ROOT = Path(__file__).parents[2]
LAUNCH = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no")
LAUNCH += ("--dynamo_backend", "no", "--main_process_port", "0")


def launch(program: Path, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `program` in two processes of one thread; it has to succeed."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, str(program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran


def launch_both(module: ModuleType, *arguments: str | Path) -> None:
    """`module.main(*arguments)` in two processes, then here; its `__main__` hands over `sys.argv`."""
    assert module.__file__ is not None
    launch(Path(module.__file__), *arguments)
    threads = torch.get_num_threads()
    module.main(*arguments)
    torch.set_num_threads(threads)


def joined(folder: Path, name: str, part: str) -> torch.Tensor:
    """All numbers of the tensors in `FOLDER/NAME.safetensors` whose names begin with `part`."""
    found, _ = load_tensors(folder / f"{name}.safetensors")
    chosen = [value.double().reshape(-1) for key, value in sorted(found.items()) if key.startswith(part)]
    assert chosen
    return torch.cat(chosen)
