"""The reward study on a small random pipeline: its parts, its figures, its resumption, and the page it writes."""

import json
import re

import pytest
import torch

from adjointdpm import zoo
from adjointdpm.formats import fingerprint
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.reward.recognition import named_in
from adjointdpm.zoo.draw import held_out
from studies.reward import design, timed
from studies.reward.__main__ import run
from studies.reward.design import GOALS, METHODS, Plan
from studies.reward.figures import against, compare, summary
from studies.reward.page import page, tables, write_charts, write_pictures
from studies.reward.runner import Study
from tests.support.tiny_pipeline import tiny_pipeline


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    plan = Plan(0.01, (1, 2), GOALS, design.CLASSES[:1], 2, 1, design.TEST_SEEDS[:1], rates=False)
    return Study(plan, differentiable(tiny_pipeline()), zoo.judge(), tmp_path_factory.mktemp("study"))


def test_what_was_fixed_beforehand_is_sound():
    banned = {f"{style} {thing}" for thing, style in held_out()["style"]}
    assert set(design.DRAWINGS) | set(design.OTHER_DRAWINGS) == banned
    assert set(design.CLASSES) <= banned
    assert len(design.SEEDS) >= 3
    assert design.PILOT_SEED not in design.SEEDS
    tokenizer = tiny_pipeline().tokenizer
    for goal in GOALS:
        assert not set(goal.train) & set(goal.test)
        assert goal.reward != goal.held_out
        things = [{named_in(prompt) for prompt in prompts} for prompts in (goal.train, goal.test)]
        assert not things[0] & things[1]
        for prompt in (*goal.train, *goal.noise, *goal.test):
            assert tokenizer.unk_token_id not in tokenizer(prompt).input_ids, prompt
    assert set(design.EMBEDDING_GROUNDS).isdisjoint(design.EMBEDDING_TEST)


def case(after, before=(0.0, 0.0), watched=(0.0, 0.0)):
    scores = {"reward": list(after), "held out": list(watched)}
    start = {"reward": list(before), "held out": [0.0] * len(before)}
    hits = {"before": [True, True], "after": [True, False]}
    return {"before": start, "after": scores, "updates": 3, "rate": 0.1, "penalty": None, "recognised": hits}


def test_figures():
    ours = [case((1.0, 1.2), watched=(0.5, 0.6)), case((1.1, 0.9), watched=(0.55, 0.65))]
    theirs = [case((0.5, 0.7), watched=(-0.5, -0.4)), case((0.6, 0.4), watched=(-0.45, -0.6))]
    found = summary(ours)
    assert found["reward"]["after"] == pytest.approx(1.05)
    assert found["held out"]["by_seed"] == pytest.approx([0.55, 0.6])
    assert found["verdict"] == "confirmed"
    assert found["recognised after"] == 0.5
    assert summary(theirs)["verdict"] == "hacked"
    difference = against(ours, theirs)
    assert difference["reward"]["difference"] == pytest.approx(0.5)
    assert compare(difference["held out"]) == "higher"
    assert compare(against(theirs, ours)["held out"]) == "lower"
    assert compare(against(ours, ours)["reward"]) == "no difference found"


class Clock:
    """Every look at it takes a tenth of a second."""

    def __init__(self):
        self.looks = 0

    def process_time(self):
        self.looks += 1
        return self.looks / 10


@pytest.mark.parametrize("method", METHODS["noise"])
def test_every_method_stops_when_its_time_is_up(study, monkeypatch, method):
    monkeypatch.setattr(timed, "time", Clock())
    reached = timed.run(study.generator, study.judge, GOALS[1], "noise", method, 0.03, 1, 1.0, study.plan)
    assert reached.updates == 5  # two looks for each, and none that would end more than half of itself too late
    assert reached.seconds == pytest.approx(1.2)


def test_the_best_of_many_noises_is_at_least_as_good_for_every_image(study, monkeypatch):
    monkeypatch.setattr(timed, "time", Clock())
    reached = timed.run(study.generator, study.judge, GOALS[1], "noise", "best_of", 0.03, 2, 1.6, study.plan)
    assert any(after > before for before, after in zip(reached.before["reward"], reached.after["reward"], strict=True))
    assert all(
        after >= before - 1e-6
        for before, after in zip(*(s["reward"] for s in (reached.before, reached.after)), strict=True)
    )
    assert max(reached.penalty) < 2


def test_all_methods_run_the_same_sampler(study):
    starts = {
        method: timed.run(study.generator, study.judge, GOALS[1], "weights", method, 1e-3, 1, 0.01, study.plan)
        for method in METHODS["weights"]
    }
    for reached in starts.values():
        assert torch.equal(reached.start, starts["exact"].start)
        assert reached.before == starts["exact"].before
        assert not torch.equal(reached.images, reached.start)


def test_it_runs_resumes_and_writes_its_page(study, tmp_path):
    model = fingerprint(study.generator.pipe)
    results = json.loads(json.dumps(run(study, model)))
    assert len(results["cases"]) == 2 * 2 * (4 + 3)
    stamps = {path: path.stat().st_mtime_ns for path in study.folder.glob("*.json")}
    assert len(stamps) == 28 + 1
    assert json.loads(json.dumps(run(study, model)))["cases"] == results["cases"]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    write_pictures(study, tmp_path / "img")
    write_charts(results, tmp_path / "img")
    text = page(results)
    for name in re.findall(r"\]\((img/[^)]+)\)", text):
        assert (tmp_path / name).is_file(), name
    assert text.count("exact above") == 2 * (3 + 1)
    assert "tiny run" in text
    for table in tables(results):
        for row in table["rows"].values():
            assert row["images"] in (16, 20)
            assert f"{row['held out']['after']:.3f}" in text
