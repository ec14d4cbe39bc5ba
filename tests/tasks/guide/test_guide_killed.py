"""SIGKILL at any moment, then the same command again: the same bits as without it."""

import pytest
import torch

from adjointdpm.runs import load_tensors, read_jsonl
from tests.support.killed import run_whole_and_killed

PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.run import guide_images
from tests.support.tiny_pipeline import tiny_pipeline
config = GuideConfig(out=sys.argv[1], prompts=("cat", "red apple"), seeds=(0,), box=(0, 0, 8, 8), symmetry="left-right",
                     updates=9, steps=2, checkpoint_every=1, candidates=2, lr=0.5, plateau=1)
guide_images(config, differentiable(tiny_pipeline()), on_step=lambda step, *_: print(step, flush=True))
"""


@pytest.mark.full
@pytest.mark.timeout(900)  # four processes, each of which imports everything
def test_killed_twice_and_resumed_gives_the_same_bits(tmp_path):
    run_whole_and_killed(PROGRAM, tmp_path)
    for file in ("0000-cat-seed0", "0001-red-apple-seed0"):
        whole, cut = (load_tensors(tmp_path / n / f"{file}.noise.safetensors")[0]["latents"] for n in ("whole", "cut"))
        assert torch.equal(whole, cut)
        first, second = ((tmp_path / n / f"{file}.noise.safetensors").read_bytes() for n in ("whole", "cut"))
        assert first == second
    losses = [[row["loss"] for row in read_jsonl(tmp_path / name / "log.jsonl")] for name in ("whole", "cut")]
    assert len(losses[0]) == 9
    assert losses[0] == losses[1]
