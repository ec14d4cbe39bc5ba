"""Functions of the user's in a guided run, and prompts that the embedded recogniser reads as the tokenizer does."""

import html

import pytest
import torch

from adjointdpm import zoo
from adjointdpm.cli.guide import summary
from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks import GuideConfig, guide_images
from adjointdpm.tasks.guide.recogniser import EmbeddedRecogniser
from adjointdpm.zoo.measure import object_recognised
from adjointdpm.zoo.objects import OBJECTS
from tests.support.tiny_pipeline import tiny_pipeline

MINE = """
def key(images):
    return {}["weight"]
def nothing():
    return 1
def nan(images):
    return images.mean((1, 2, 3)) * float("nan")
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "MINE:key"}, r"objective .*key' fails at mine\.py:3 .*: KeyError: 'weight'"),
        ({"objective": "MINE:nothing"}, r"nothing' takes no arguments; expected \(images\) or \(images, prompts\)"),
        ({"objective": "MINE:nan"}, "the term 'objective': the loss is nan"),
        ({"size": 0.2, "recogniser": "MINE:key"}, r"recogniser .*key' fails at mine\.py:3"),
        ({"size": 0.2, "saliency": "MINE:key"}, r"saliency .*key' fails at mine\.py:3"),
        ({"size": 0.2, "saliency": "MINE:nothing"}, r"nothing' takes no arguments; expected \(image\)$"),
        ({"size": 0.2, "saliency": "MINE:nan"}, r"\(16, 16\)|returned \(1,\); expected a mask"),
    ],
)
def test_a_function_that_fails_is_named_before_anything_is_written(tmp_path, changes, message):
    (tmp_path / "mine.py").write_text(MINE)
    given = {k: v.replace("MINE", f"{tmp_path}/mine.py") if isinstance(v, str) else v for k, v in changes.items()}
    config = GuideConfig(out=tmp_path / "run", prompts=("red apple",), seeds=(1,), updates=1, steps=2, **given)
    with pytest.raises(InvalidInput, match=message):
        guide_images(config, differentiable(tiny_pipeline()))
    assert not config.out.exists()


def test_empty_prompts_are_refused():
    with pytest.raises(ValueError, match="a prompt is empty: say what to paint"):
        GuideConfig(out="run", prompts=("cat", ""), size=0.2)


def test_the_recogniser_reads_prompts_as_the_tokenizer_does():
    network = EmbeddedRecogniser(torch.nn.Identity(), ["A Cat, at left"])
    assert network.label == {"A Cat, at left": list(OBJECTS).index("cat")}
    with pytest.raises(InvalidInput, match="knows no object in the prompt 'blue stripes'"):
        EmbeddedRecogniser(torch.nn.Identity(), ["blue stripes"])


def test_a_judge_that_is_not_optimised_says_whether_objects_are_still_there(tmp_path):
    quick = {"updates": 1, "steps": 4, "candidates": 1, "seeds": (0,), "size": 0.3}
    config = GuideConfig(out=tmp_path / "run", prompts=("3d Cat, on white background", "blue"), **quick)
    with pytest.warns(InputWarning, match="'blue' names none"):
        result = guide_images(config, differentiable(zoo.emoji()))
    named, nameless = result.record["results"]["cases"]
    seen = object_recognised(result.images[:1], ["cat"], zoo.judge())
    assert named["recognised"][1] == bool(seen[0])
    assert "recognised" not in nameless
    count = sum(named["recognised"][1:])
    assert f"names the prompt's object in {count} of 1 images" in html.unescape(result.report_path.read_text())
    assert any(line.startswith("recognised ") and "of 1 objects" in line for line in summary(config, result))
