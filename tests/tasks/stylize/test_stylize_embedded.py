"""Stylization of the embedded model: its objects can be named, and a style shows in a network that never saw it."""

import json

import pytest

from adjointdpm import zoo
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.stylize import StylizeConfig, stylize_model
from adjointdpm.tasks.stylize.networks import is_embedded, object_judge
from tests.support.tiny_pipeline import tiny_pipeline


@pytest.mark.timeout(600)
def test_few_steps_move_its_images_towards_the_style(style_file, tmp_path):
    config = StylizeConfig(
        out=tmp_path / "run", style=style_file, prompts=("cat", "car"), seeds=(1,), features="classifier",
        content_weight=0.1, pairs_per_step=2, epochs=6, lr=5e-3, lr_schedule="constant", steps=4, guidance_scale=2.0,
        unseen_prompts=("apple",), unseen_seeds=(5, 6), validate_every=0,
    )  # fmt: skip
    result = stylize_model(config, differentiable(zoo.emoji(), memory="2GB"))
    assert result.losses[-1] < result.losses[0]
    for figures in result.results["sets"].values():
        assert figures["gram"]["judge"]["drop"] > 0.05
        assert 0 <= figures["recognised"]["after"] <= 1
    assert "the object is recognised in" in result.report_path.read_text()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"]["measured_by"] == "judge"


def test_only_the_embedded_models_objects_are_named():
    assert is_embedded(zoo.emoji())
    assert object_judge(tiny_pipeline()) is None
