"""Stylization of the embedded model: its objects can be named, and a style shows in a network that never saw it."""

import json
from pathlib import Path

import pytest
import torch

from adjointdpm import zoo
from adjointdpm.cli.stylize import summary
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.networks import is_embedded, object_judge
from adjointdpm.tasks.painter import Painted
from adjointdpm.tasks.stylize import StylizeConfig, StylizeResult, stylize_model
from adjointdpm.tasks.stylize.compare import Comparison
from tests.support.tiny_pipeline import tiny_pipeline


@pytest.mark.timeout(600)
def test_few_steps_move_its_images_towards_the_style(style_file, tmp_path):
    config = StylizeConfig(
        out=tmp_path / "run", style=style_file, prompts=("cat", "car"), seeds=(1,), features="classifier",
        content_weight=0.1, pairs_per_step=2, epochs=6, lr=5e-3, lr_schedule="constant", steps=4, guidance_scale=2.0,
        unseen_prompts=("An Apple,", "blue stripes"), unseen_seeds=(5, 6), validate_every=0,
    )  # fmt: skip
    result = stylize_model(config, differentiable(zoo.emoji(), memory="2GB"))
    assert result.losses[-1] < result.losses[0]
    for figures in result.results["sets"].values():
        assert figures["gram"]["judge"]["drop"] > 0.05
        assert 0 <= figures["recognised"]["after"] <= 1
    assert result.results["sets"]["unseen prompts"]["recognised"]["images"] == 2  # those of 2 more name no object
    report = result.report_path.read_text()
    assert "the object is recognised in" in report
    assert "of the 2 images whose prompt names one" in report
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"]["measured_by"] == "judge"


def test_only_the_embedded_models_objects_are_named():
    assert is_embedded(zoo.emoji())
    assert object_judge(tiny_pipeline()) is None
    judge = object_judge(zoo.emoji())
    found = judge(torch.zeros(3, 3, 64, 64), ["Cat,", "blue stripes", "a DOG!"])
    assert [yes is None for yes in found] == [False, True, False]


def test_a_share_of_no_images_is_none_and_not_zero():
    images = Painted(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    pairs = (("red", 0), ("blue stripes", 0))
    found = Comparison.of("unseen prompts", pairs, images, images, {}, lambda images, prompts: [None, None])
    assert found.figures()["recognised"] == {"images": 0, "before": None, "after": None}
    results = {"first_loss": 2.0, "final_loss": 1.0, "optimiser_steps": 3, "sets": {found.title: found.figures()}}
    result = StylizeResult(Path("run"), Path("weights"), Path("report.html"), [], results, {})
    lines = summary(StylizeConfig(out="run", style="style.png"), result, "adjointdpm stylize")
    assert "recognised    no object is named on unseen prompts" in lines
