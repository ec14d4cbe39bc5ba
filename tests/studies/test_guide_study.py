"""The guidance study: its design, its measures, its rivals, and the page that it writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from adjointdpm import zoo
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.guide.objectives import box_iou
from adjointdpm.zoo.lexicon import POSITIONS, SIZES
from adjointdpm.zoo.load import unknown_words
from studies.guide import universal
from studies.guide.__main__ import run
from studies.guide.defaults import ASKED, CIRCLES, DISCS, figures_of, measure
from studies.guide.design import BOXES, QUESTIONS, SEEDS, TUNED_ON, Plan, full_plan, tiny_plan
from studies.guide.page import page, write_pictures
from studies.guide.runner import METHODS, Study
from studies.guide.segmentation import boxes, components, object_pixels, otsu
from studies.guide.summary import median_interval, sign_test


def taught_places():
    """Every box of an object that the training composed: five positions, moved by 8 pixels along free axes."""
    for extent in SIZES.values():
        margin = 64 - extent
        for position in POSITIONS:
            for up in (-8, 0, 8):
                for across in (-8, 0, 8):
                    top = {"top": 0, "bottom": margin}.get(position, margin // 2 + up)
                    left = {"left": 0, "right": margin}.get(position, margin // 2 + across)
                    yield left, top, left + extent, top + extent


def test_no_taught_place_overlaps_a_box_by_much():
    places = torch.tensor(list(taught_places())).float()
    nearest = [float(box_iou(places, dict(q.wish)["box"]).max()) for q in BOXES]
    assert max(nearest) < 0.7
    assert sorted(nearest)[len(nearest) // 2] <= 0.62


def test_prompts_are_of_words_that_the_model_knows_and_were_not_tuned_on():
    assert len({q.name for q in QUESTIONS}) == len(QUESTIONS)
    assert sum(len(q.prompts) * len(q.seeds) for q in BOXES) >= 24
    for question in QUESTIONS:
        for prompt in question.prompts:
            assert not set(prompt.split()) & set(TUNED_ON)
            for phrase in question.phrases:
                assert not unknown_words(phrase.format(prompt=prompt))
    assert {len(q.seeds) for q in full_plan().questions} == {4}
    assert not any(seed < 1000 for q in QUESTIONS for seed in q.seeds if seed not in SEEDS)


def test_parts_and_thresholds():
    mask = np.zeros((12, 12), bool)
    mask[1:4, 1:4] = mask[4, 4] = mask[8:11, 5:9] = True
    parts = components(mask)
    assert sorted(np.bincount(parts.ravel())[1:].tolist()) == [10, 12]
    assert components(np.ones((3, 3), bool)).tolist() == [[1] * 3] * 3
    assert 15 <= otsu(np.array([10] * 50 + [15] * 50 + [200] * 20)) < 200


@pytest.mark.parametrize("corner", [(0, 0), (40, 0), (20, 30)])
def test_the_segmentation_finds_the_box(corner):
    left, top = corner
    image = torch.full((1, 3, 64, 64), 0.4)
    image[:, 2] = 0.9
    image[:, :, top : top + 20, left : left + 24] = torch.tensor([0.9, 0.3, 0.2]).view(3, 1, 1)
    image[:, :, 60, 60] = 0  # a speck
    image += 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    assert boxes(image) == [(left, top, left + 24, top + 20)]
    assert not object_pixels(np.full((64, 64, 3), 120, np.uint8)).any()
    assert boxes(torch.full((1, 3, 64, 64), 0.5)) == [(0, 0, 0, 0)]


def test_intervals_and_pairs():
    found = median_interval([1, 2, 3, 4, 100])
    assert found["median"] == 3
    assert found["low"] < 3 < found["high"]
    assert sign_test([1, 2, 3, 4, 5], [0, 0, 0, 0, 5]) == {"ahead": 4, "behind": 0, "p": 0.125}
    assert sign_test([1], [1])["p"] == 1


def test_without_bending_universal_guidance_is_the_sampler():
    generator = differentiable(zoo.emoji())
    embeds, negative = generator.encode_prompt(["flat cat"])
    noise = generator.prepare_latents(1, 3)
    ours = universal.sample(
        generator.pipe, embeds, negative, noise, lambda x: x.square().mean(dim=(1, 2, 3)), 3, 3.0, 1, 0.0
    )
    with torch.no_grad():
        theirs = generator("flat cat", latents=noise, num_inference_steps=3, guidance_scale=3.0).image
    assert torch.allclose(ours, theirs, atol=2e-3)
    bent = universal.sample(generator.pipe, embeds, negative, noise, lambda x: x.mean(dim=(1, 2, 3)), 3, 3.0, 2, 0.5)
    assert float(bent.mean()) < float(theirs.mean())
    assert universal.calls(10, 6) == 120


@pytest.mark.timeout(600)
def test_it_runs_resumes_and_writes_its_page(tmp_path):
    plan = tiny_plan()
    study = Study(plan, differentiable(zoo.emoji(), memory="4GB"), zoo.judge(), tmp_path / "study")
    results = run(study, {"denoiser": "x"}) | {"segmentation": None, "full": False}
    stamps = {path: path.stat().st_mtime_ns for path in study.folder.rglob("figures.json")}
    assert len(stamps) == sum(len(q.prompts) for q in plan.questions)
    assert json.loads(json.dumps(run(study, {})["questions"])) == json.loads(json.dumps(results["questions"]))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    (first,) = results["questions"][plan.questions[0].name].values()
    assert set(first["values"]) == set(METHODS)
    budget = first["calls"]["exact"]
    assert all(0.5 * budget < calls <= budget for calls in first["calls"].values())
    write_pictures(study, tmp_path / "img", plan)
    text = page(json.loads(json.dumps(results)), plan)
    for question in plan.questions:
        assert question.title in text
        assert (tmp_path / "img" / f"guide_{question.group}.png").is_file()
    assert "reached" in text
    assert "None" not in text and "{{" not in text


def test_a_changed_question_is_asked_again(tmp_path):
    question = replace(BOXES[0], prompts=BOXES[0].prompts[:1], seeds=(1,))
    study = Study(Plan((question,), 1, 2, 2), differentiable(zoo.emoji()), zoo.judge(), tmp_path)
    from studies.guide import runner

    folder = tmp_path / question.name / question.prompts[0].replace(" ", "-")
    folder.mkdir(parents=True)
    (folder / "figures.json").write_text(json.dumps({"asked": {"name": "other"}}))
    found = runner.run_prompt(study, question, question.prompts[0])
    assert found["values"]["exact"] != []


def test_the_defaults_are_measured_on_boxes_of_their_own(tmp_path):
    study = {prompt for q in QUESTIONS for prompt in q.prompts}
    boxes_of_the_study = {dict(q.wish)["box"] for q in BOXES}
    assert not boxes_of_the_study & set(ASKED.values())
    assert len(study & set(ASKED)) <= 1  # in another box
    generator, judge, found = differentiable(zoo.emoji()), zoo.judge(), {}
    for prompt, place in [*list(ASKED.items())[:1], *DISCS.items(), *CIRCLES.items()]:
        runs = {
            name: measure(generator, judge, tmp_path / prompt / name, prompt, place, updates=1, steps=2, **settings)
            for name, settings in (("alone", {"optimise": "noise", "candidates": 1}), ("default", {"candidates": 2}))
        }
        assert runs["alone"]["plain"] == runs["default"]["plain"]
        assert runs["default"]["calls"] > runs["alone"]["calls"]
        found[prompt] = runs
    figures = figures_of(found, found)
    assert list(figures) == ["plain", "alone", "default"]
    assert all(f["n"] == 6 and 0 <= f["counted"] <= f["median"] <= 1 for f in figures.values())
