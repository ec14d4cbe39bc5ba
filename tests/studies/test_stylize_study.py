"""The stylization study on a small random pipeline: its parts, its resumption, and the page it writes."""

import json
import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from adjointdpm.formats import fingerprint
from adjointdpm.losses.style import StyleAndContent, StyleTarget
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.inversion.config import InvertConfig
from adjointdpm.tasks.inversion.token_space import TokenSpace
from adjointdpm.tasks.weights import Trained
from adjointdpm.zoo.objects import OBJECTS
from studies.stylize import denoising, styles
from studies.stylize.__main__ import digest, run
from studies.stylize.design import (
    METHODS,
    STYLES,
    TEST_PROMPTS,
    TEST_SEEDS,
    TRAIN_PROMPTS,
    TRAIN_SEEDS,
    Plan,
    full_plan,
    tiny_plan,
)
from studies.stylize.measure import Measured, figures, interval, mcnemar
from studies.stylize.page import page, write_pictures
from studies.stylize.pixels import stylize_pixels
from studies.stylize.runner import Study
from tests.support.tiny_pipeline import tiny_pipeline
from tests.tasks.stylize import networks
from tests.tasks.stylize.networks import Net


class Judge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, len(OBJECTS))

    def forward(self, x):
        return types.SimpleNamespace(objects=self.head(self.conv(x).mean(dim=(2, 3))))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    generator = differentiable(tiny_pipeline())
    optimised = (f"{networks.__file__}:optimised", Net(0))
    judge = Judge().requires_grad_(False)
    return Study(
        tiny_plan(), generator, optimised, {"second": Net(1), "third": Net(2)}, judge, tmp_path_factory.mktemp("study")
    )


def test_training_and_test_share_no_object_or_noise():
    assert len(STYLES) == 4
    assert not set(TRAIN_SEEDS) & set(TEST_SEEDS)
    train, test = ({w for p in prompts for w in p.split() if w in OBJECTS} for prompts in (TRAIN_PROMPTS, TEST_PROMPTS))
    assert len(train) == len(TRAIN_PROMPTS)
    assert len(test) == len(TEST_PROMPTS)
    assert not train & test
    assert not set(full_plan().train_seeds) & set(full_plan().test_seeds)
    assert len(full_plan().sets()["training pairs"]) == 100
    assert list(Plan().sets())[-1] == "unseen prompts"  # the set that neural style transfer gets


@pytest.mark.parametrize("name", sorted(styles.DRAWN))
def test_the_drawn_styles_are_those_in_the_folder(name):
    with Image.open(styles.FOLDER / f"{name}.png") as kept:
        there = np.asarray(kept.convert("RGB"), dtype=float)
    again = np.asarray(styles.DRAWN[name](), dtype=float)
    assert np.abs(there - again).mean() < 2  # of 255: lines may differ a little between versions of Pillow


def test_every_style_is_there_with_its_source():
    text = (styles.FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    for file in styles.FOLDER.glob("*.png"):
        assert file.stem in text
        with Image.open(file) as picture:
            assert picture.size == (styles.SIDE, styles.SIDE)
    assert all(style.file.is_file() for style in STYLES)


def measured(after, seen_after, before=(1.0, 1.0, 1.0, 1.0), seen_before=(True, True, True, False)):
    return Measured(("a", "a", "b", "b"), before, after, seen_before, seen_after)


def test_figures():
    found = figures(measured((0.5, 0.6, 0.2, 0.1), (True, True, False, True)))
    assert found["drop"]["value"] == pytest.approx(1 - 1.4 / 4)
    assert found["kept"]["value"] == pytest.approx(1.0)  # three recognised before, three after
    assert (found["both"]["right"], found["both"]["n"]) == (1, 3)  # the first; the last was not recognised before
    assert found["drop"]["low"] <= found["drop"]["value"] <= found["drop"]["high"]
    steady = measured((0.5,) * 4, (True,) * 4)
    assert interval(steady, steady.drop) == (0.5, 0.5)
    wide = interval(measured((0.0, 0.0, 1.0, 1.0), (True,) * 4), measured((0.0, 0.0, 1.0, 1.0), (True,) * 4).drop)
    assert wide == (0.0, 1.0)  # whole prompts are drawn


def test_mcnemar_is_the_exact_binomial_test():
    assert mcnemar([True] * 8, [False] * 8) == {
        "only_ours": 8,
        "only_theirs": 0,
        "p": pytest.approx(2 / 2**8, rel=1e-2),
    }
    assert mcnemar([True, False], [True, False])["p"] == 1.0
    assert mcnemar([True, False], [False, True])["p"] == 1.0


def test_the_rivals_stay_within_the_same_evaluations(study):
    pipe, calls = study.generator.pipe, []
    before = fingerprint(pipe)
    handle = pipe.unet.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    painter = study.painter()
    config = InvertConfig(out="x", prompts=("",), target_words="style", space="token", token="<style>", vectors=2)
    space = TokenSpace(painter, config)
    start = space.parameter.detach().clone()
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    used = [denoising.learn_token(pipe, space, image, 170, 0.02)]
    assert not torch.equal(space.parameter, start)
    with Trained(pipe, "all") as trained:
        used.append(denoising.learn_weights(pipe, trained, "bengiles", image, 170, 1e-3))
    handle.remove()
    for one in used:
        assert one["forwards"] == one["vjps"] == 5 * 16
        assert one["forwards"] + one["vjps"] <= 170
    assert sum(calls) == sum(one["forwards"] for one in used)
    assert fingerprint(pipe) == before


def test_the_rivals_learn_the_image_they_are_given(study):
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with Trained(study.generator.pipe, "all") as trained:
        used = denoising.learn_weights(study.generator.pipe, trained, "bengiles", image, 32 * 60, 3e-3)
    assert used["last_loss"] < 0.9 * used["first_loss"]


def test_pixels_take_the_style():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    style = StyleTarget.of(Net(0), torch.rand(1, 3, 20, 16, generator=torch.Generator().manual_seed(1)) ** 3)
    loss = StyleAndContent(style, 1.0, 0.1)
    done = stylize_pixels(loss, images, evaluations=2 * 3 * 60, lr=0.02, batch=2)
    assert done.shape == images.shape
    assert float(done.min()) >= 0
    assert float(done.max()) <= 1
    distance = style.distance(done).detach() / style.distance(images).detach()
    assert bool((distance < 0.5).all())


def test_it_runs_resumes_and_writes_its_page(study, tmp_path):
    model = fingerprint(study.generator.pipe)
    results = run(study, model)
    stamps = {path: path.stat().st_mtime_ns for path in study.folder.rglob("*.safetensors")}
    assert json.loads(json.dumps(run(study, model)["styles"])) == json.loads(json.dumps(results["styles"]))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    results = json.loads(json.dumps(results))
    (style,) = study.plan.styles
    found = results["styles"][style.name]
    assert set(found["sets"]["unseen prompts"]) == set(METHODS)
    assert set(found["sets"]["training pairs"]) == set(METHODS) - {"pixels"}
    assert set(found["sets"]["unseen prompts"]["ours"]) == {"second", "third", study.optimised[0]}
    for name, used in found["used"].items():
        if name != "ours":
            assert used["forwards"] + used["vjps"] <= max(found["evaluations"], 2 * 16)
    write_pictures(study.folder, tmp_path / "img", study.plan)
    text = page(results, study.plan)
    assert style.title in text
    assert (tmp_path / "img" / f"stylize_{style.name}.png").is_file()
    assert (tmp_path / "img" / "stylize.png").is_file()
    assert "This is a tiny run" in text
    rows = [line for line in text.splitlines() if line.startswith(f"| {style.title} |")]
    assert len(rows) == 3  # answers, methods, sets
    for row in rows:
        head = text.splitlines()[text.splitlines().index(row) - 2]
        assert head.count("|") == row.count("|"), row


def test_another_plan_has_a_folder_of_its_own():
    assert digest(Plan()) != digest(tiny_plan())
    assert digest(Plan()) == digest(Plan())
