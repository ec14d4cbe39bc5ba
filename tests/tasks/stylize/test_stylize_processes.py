"""SIGKILL at any moment, and two processes of a launcher: the same result as one undisturbed process."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from adjointdpm.runs import load_tensors, read_jsonl

PROGRAM = """
import os, sys, torch
torch.set_num_threads(1)
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.stylize.config import StylizeConfig
from adjointdpm.tasks.stylize.run import stylize_model
from tests.support.tiny_pipeline import tiny_pipeline
out, style, epochs, dtype = sys.argv[1:5]
networks = "tests/tasks/stylize/networks.py"
config = StylizeConfig(out=out, style=style, prompts=("cat", "red apple", "dog"), seeds=(1, 2), epochs=int(epochs),
                       pairs_per_step=6, features=f"{networks}:optimised", measure=f"{networks}:measuring", steps=2,
                       lr=1e-3, checkpoint_every=1, validate_every=2, unseen_prompts=("owl",), unseen_seeds=(9,))
pipe = tiny_pipeline().to(getattr(torch, dtype))
stylize_model(config, differentiable(pipe), on_step=lambda step, *_: print(step, flush=True))
"""


def start(folder, style, epochs, dtype="float32", **environment):
    command = [sys.executable, "-c", PROGRAM, str(folder), str(style), str(epochs), dtype]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
    )


def weights(folder):
    return load_tensors(folder / "weights" / "pytorch_lora_weights.safetensors")[0]


def files(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.suffix in (".safetensors", ".jsonl", ".png"))


@pytest.mark.full
@pytest.mark.timeout(900)  # four processes, each of which imports everything
def test_killed_twice_and_resumed_gives_the_same_bits(tmp_path, style_file):
    assert start(tmp_path / "whole", style_file, 9).wait(timeout=240) == 0
    for pause in (0.05, 0.21):  # somewhere between two lines: in a step, or while a checkpoint or an image is written
        process = start(tmp_path / "cut", style_file, 9)
        for _ in range(2):
            process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "cut", style_file, 9).wait(timeout=240) == 0
    whole, cut = (weights(tmp_path / name) for name in ("whole", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert files(tmp_path / "whole") == files(tmp_path / "cut")
    losses = [[row["loss"] for row in read_jsonl(tmp_path / name / "log.jsonl")] for name in ("whole", "cut")]
    assert len(losses[0]) == 9
    assert losses[0] == losses[1]
    for name in ("terms.jsonl", "validation/step-000004.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.timeout(600)
def test_two_processes_learn_what_one_learns(tmp_path, style_file):
    """Five steps in float64: the weights agree to 1e-8, the first loss and gradient to 1e-12."""
    assert start(tmp_path / "one", style_file, 5, "float64").wait(timeout=240) == 0
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "1"}
    pair = [
        start(tmp_path / "two", style_file, 5, "float64", RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert outputs[0].split() == ["1", "2", "3", "4", "5"]
    assert outputs[1] == ""
    one, two = (weights(tmp_path / name) for name in ("one", "two"))
    a, b = (torch.cat([t.flatten() for _, t in sorted(w.items())]) for w in (one, two))
    assert a.dtype == torch.float64
    assert float((a - b).norm() / a.norm()) < 1e-8
    logs = [read_jsonl(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    for key in ("loss", "grad_norm"):
        assert logs[0][0][key] == pytest.approx(logs[1][0][key], rel=1e-12)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    terms = [read_jsonl(tmp_path / name / "terms.jsonl") for name in ("one", "two")]
    assert terms[0][-1]["style"] == pytest.approx(terms[1][-1]["style"], rel=1e-8)
