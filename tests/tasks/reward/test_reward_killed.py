"""SIGKILL at any moment, then the same command again: the same bits as without it."""

import pytest
import torch

from adjointdpm.runs import load_checkpoint, read_jsonl
from tests.support.killed import run_whole_and_killed

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


@pytest.mark.full
@pytest.mark.timeout(900)  # four processes, each of which imports everything
def test_killed_twice_and_resumed_gives_the_same_bits(tmp_path):
    run_whole_and_killed(PROGRAM, tmp_path)
    whole, cut = (load_checkpoint(tmp_path / name).state["parameters"] for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    rows = [[r.get("rewards", r.get("loss")) for r in read_jsonl(tmp_path / name / "log.jsonl")]
            for name in ("whole", "cut")]  # fmt: skip
    assert len(rows[0]) == 18
    assert rows[0] == rows[1]
