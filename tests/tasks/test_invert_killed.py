"""SIGKILL at any moment, then the same command again: the same bits as without it."""

import pytest
import torch

from adjointdpm.formats import PromptEmbedding
from adjointdpm.runs import read_jsonl
from tests.support.killed import run_whole_and_killed

PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks import InvertConfig, invert
from tests.support.tiny_pipeline import tiny_pipeline
config = InvertConfig(out=sys.argv[1], prompts=("cat", "red apple"), effect="sepia", epochs=9, steps=2,
                      checkpoint_every=1, unseen_prompts=())
invert(config, differentiable(tiny_pipeline()), on_step=lambda step, *_: print(step, flush=True))
"""


@pytest.mark.full
@pytest.mark.timeout(900)  # four processes, each of which imports everything
def test_killed_twice_and_resumed_gives_the_same_bits(tmp_path):
    run_whole_and_killed(PROGRAM, tmp_path)
    whole, cut = (PromptEmbedding.load(tmp_path / name / "embedding.safetensors") for name in ("whole", "cut"))
    assert torch.equal(whole.rows, cut.rows)
    losses = [[row["loss"] for row in read_jsonl(tmp_path / name / "log.jsonl")] for name in ("whole", "cut")]
    assert len(losses[0]) == 9
    assert losses[0] == losses[1]
