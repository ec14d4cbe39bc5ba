"""The inversion study on a small random pipeline: its parts, its resumption, and the page it writes."""

import json
import types

import pytest
import torch
from torch import nn

from adjointdpm.formats import fingerprint
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.inversion.painter import Painter
from adjointdpm.tasks.inversion.token_space import TokenSpace
from adjointdpm.zoo.measure import object_recognised
from adjointdpm.zoo.objects import OBJECTS
from studies.inversion import denoising, measure
from studies.inversion.__main__ import run
from studies.inversion.design import EFFECTS, TEST_PROMPTS, TEST_SEEDS, TRAIN_PROMPTS, TRAIN_SEEDS, Plan
from studies.inversion.page import page, write_chart, write_pictures
from studies.inversion.runner import Study
from studies.inversion.words import best_word, candidates
from tests.support.tiny_pipeline import tiny_pipeline


class Judge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, len(OBJECTS))

    def features(self, x):
        return [self.conv(x)]

    def forward(self, x):
        return types.SimpleNamespace(objects=self.head(self.conv(x).mean(dim=(2, 3))))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    plan = Plan((EFFECTS[0], EFFECTS[-1]), epochs=2, test_prompts=TEST_PROMPTS[:2], test_seeds=TEST_SEEDS[:2], steps=2)
    generator = differentiable(tiny_pipeline())
    return Study(plan, generator, Judge().requires_grad_(False), tmp_path_factory.mktemp("study"))


def test_training_and_test_share_no_prompt_object_or_noise():
    assert len(EFFECTS) >= 5
    assert sum(not effect.named for effect in EFFECTS) >= 2
    assert any(effect.words for effect in EFFECTS)
    assert len(TEST_PROMPTS) == 10
    assert len(TEST_SEEDS) == 4
    assert not set(TRAIN_SEEDS) & set(TEST_SEEDS)
    train, test = ({w for p in prompts for w in p.split() if w in OBJECTS} for prompts in (TRAIN_PROMPTS, TEST_PROMPTS))
    assert len(train) == len(TRAIN_PROMPTS)
    assert len(test) == len(TEST_PROMPTS)
    assert not train & test


def test_every_prompt_and_candidate_is_in_the_vocabulary_and_fits():
    tokenizer = tiny_pipeline().tokenizer
    for text in (*TRAIN_PROMPTS, *TEST_PROMPTS, *(c.replace("{prompt}", "cat") for c in candidates())):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids, text
        assert len(ids) - 1 <= 8, text  # start token and words lie before the learnt rows


def test_gap_and_recognition_figures():
    true, plain = torch.zeros(3, 3, 8, 8), torch.full((3, 3, 8, 8), 0.4)
    ours = torch.stack([torch.full((3, 8, 8), v) for v in (0.0, 0.2, 0.4)])
    judge = Judge()
    closed = measure.shares_closed(ours, plain, true, judge)
    assert closed["mse"]["median"] == pytest.approx(0.75)
    assert closed["mse"]["quartiles"] == pytest.approx([0.375, 0.875])
    assert closed["features"]["quartiles"][1] <= 1
    assert measure.shares_closed(true, plain, true, judge)["features"]["median"] == 1
    before, after = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    assert measure.kept(before, after) == {"before": 2, "after": 1}


def test_recognition_compares_with_the_object_of_the_prompt():
    class Fixed:
        def __call__(self, images):
            logits = torch.zeros(len(images), len(OBJECTS))
            logits[:, list(OBJECTS).index("fox")] = 1
            return types.SimpleNamespace(objects=logits)

    found = object_recognised(torch.zeros(2, 3, 8, 8), ["fox on white background", "bell on blue dots"], Fixed())
    assert found.tolist() == [True, False]


def test_the_best_word_is_the_nearest():
    images = {"far": torch.ones(1, 3, 4, 4), "near": torch.full((1, 3, 4, 4), 0.1)}
    assert best_word(images, torch.zeros(1, 3, 4, 4)) == ("near", pytest.approx(0.01))


def test_the_rival_gets_the_same_number_of_network_evaluations(study):
    budget = denoising.sampler_budget(epochs=2, pairs=4, steps=10)
    assert (budget.forwards, budget.vjps) == (2 * 4 * 2 * 19, 2 * 4 * 2 * 10)
    pipe, calls = study.generator.pipe, []
    handle = pipe.unet.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    config = study.config(EFFECTS[0], space="token", vectors=2)
    space = TokenSpace(Painter(study.generator, config), config)
    before = space.parameter.detach().clone()
    used = denoising.learn(pipe, space, torch.rand(4, 3, 16, 16), budget, 0.02)
    handle.remove()
    assert sum(calls) == used["forwards"] == used["vjps"]
    assert 0 <= budget.total - used["forwards"] - used["vjps"] < 2 * denoising.BATCH
    assert not torch.equal(space.parameter, before)


def test_it_runs_resumes_and_writes_its_page(study, tmp_path):
    model = fingerprint(study.generator.pipe)
    results = run(study, model)
    stamps = {path: path.stat().st_mtime_ns for path in study.folder.rglob("figures.json")}
    assert len(stamps) == 2
    assert json.loads(json.dumps(run(study, model)["effects"])) == json.loads(json.dumps(results["effects"]))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    effects = list(study.plan.effects)
    write_pictures(study.folder, tmp_path / "img", effects, study.test()[0])
    write_chart(tmp_path / "img", effects, results)
    text = page(json.loads(json.dumps(results)), effects)
    for effect in effects:
        assert effect.title in text
        assert f"img/inversion_{effect.name}.png" in text
        assert (tmp_path / "img" / f"inversion_{effect.name}.png").is_file()
    assert "quick run with 2 epochs" in text
    assert "48 forwards (recomputed ones included) + 32 VJPs" in text  # 2 epochs x 4 pairs x 2 branches x (3, 2)
    assert results["effects"]["style_3d"]["word"] != "3d {prompt}"
