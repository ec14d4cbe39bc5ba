"""SIGKILL at any moment, then the same command again: the same bits as without it."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from adjointdpm.runs import load_checkpoint, read_jsonl

PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks import RewardConfig, maximise_reward
from tests.support.tiny_pipeline import tiny_pipeline
config = RewardConfig(out=sys.argv[1], prompts=("cat", "red apple"), optimise="weights", gradient="random_truncation",
                      steps=3, epochs=9, checkpoint_every=1, unseen_prompts=(), held_out="chroma")
maximise_reward(config, differentiable(tiny_pipeline()), on_step=lambda step, *_: print(step, flush=True))
"""


def start(folder):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], stdout=subprocess.PIPE, text=True)


@pytest.mark.full
@pytest.mark.timeout(900)  # four processes, each of which imports everything
def test_killed_twice_and_resumed_gives_the_same_bits(tmp_path):
    assert start(tmp_path / "whole").wait(timeout=240) == 0
    for pause in (0.05, 0.21):  # somewhere between two lines: in a step, or in the middle of writing a checkpoint
        process = start(tmp_path / "cut")
        for _ in range(2):
            process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "cut").wait(timeout=240) == 0
    whole, cut = (load_checkpoint(tmp_path / name).state["parameters"] for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    rows = [[r.get("rewards", r.get("loss")) for r in read_jsonl(tmp_path / name / "log.jsonl")]
            for name in ("whole", "cut")]  # fmt: skip
    assert len(rows[0]) == 18
    assert rows[0] == rows[1]
