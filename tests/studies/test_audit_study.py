"""The study of audits on the tiny plan: its cases, its resumption, and the page that it writes."""

import json

import pytest
import torch

from adjointdpm import zoo
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.team import Team
from adjointdpm.zoo.objects import OBJECTS as NAMES
from studies.audit import design, networks
from studies.audit.__main__ import run
from studies.audit.page import page, write_pictures
from studies.audit.runner import Study, run_case


def test_the_design_is_what_was_asked():
    case = design.CASES[0]
    assert len(case.words) >= 10 and case.noises >= 10
    assert case.taus == (0.05, 0.1, 0.2, 0.4, 0.8)
    assert design.TAU in case.taus and design.LEVEL == 0.01
    assert {"best_of_n", "one_step", "random"} <= set(case.baselines)
    assert "adjoint" in next(c for c in design.CASES if c.name == "ode").baselines
    assert {c.name for c in design.CASES} == {
        "embedded", "again", "larger", "ode", "efficientnet", "robust", "food", "harden_classifier", "harden_filter"
    }  # fmt: skip
    again = next(c for c in design.CASES if c.name == "again")
    assert again.words == case.words and again.taus == (design.TAU,)
    larger = next(c for c in design.CASES if c.name == "larger")
    seeds = [range(start := dict(c.changes).get("seed", 0), start + len(c.words) * c.noises)
             for c in (case, again, larger)]  # fmt: skip
    assert not any(set(a) & set(b) for a, b in ((seeds[0], seeds[1]), (seeds[0], seeds[2]), (seeds[1], seeds[2])))
    assert all(word in NAMES for c in design.CASES for word in c.words)
    assert all(NAMES[word] == "food" for word in design.FOODS)
    assert not {NAMES[word] for word in design.CONTROLS} & {"food"}
    assert not set(design.CONTROLS) & set(design.OBJECTS)


def test_every_object_has_classes_of_its_own_in_imagenet():
    groups = networks.IMAGENET
    taken = [i for group in groups.values() for i in group]
    assert len(set(taken)) == len(taken) and all(0 <= i < 1000 for i in taken)
    assert all(word in NAMES for word in groups)


def test_the_robust_trunk_has_the_stored_names():
    torch.manual_seed(0)
    made = networks.RobustTrunk.__new__(networks.RobustTrunk)
    torch.nn.Module.__init__(made)
    with pytest.raises(RuntimeError, match=r"layer4\.1\.bn2\.weight"):
        networks.RobustTrunk({"conv1.weight": torch.zeros(64, 3, 3, 3)})


@pytest.mark.full
@pytest.mark.timeout(900)
def test_it_runs_resumes_and_writes_its_page(tmp_path):
    plan = design.tiny_plan()
    kept = tuple(c for c in plan.cases if not c.network)
    study = Study(design.Plan("tiny", kept, plan.iterations, plan.steps, plan.choice_noises),
                  differentiable(zoo.emoji(), wrt=("x_T",)), tmp_path / "work", Team(),
                  lambda images: torch.ones(len(images), dtype=torch.bool))  # fmt: skip
    results = run(study)
    assert set(results["cases"]) == {c.name for c in kept}
    before = (tmp_path / "work" / "embedded" / "log.jsonl").read_text()
    again = run_case(study, kept[0])
    assert again["methods"] == results["cases"]["embedded"]["methods"]
    assert (tmp_path / "work" / "embedded" / "log.jsonl").read_text() == before  # nothing was searched again
    stored = json.loads(json.dumps(results))
    write_pictures(stored, tmp_path / "work", tmp_path / "img")
    text = page(stored)
    for case in kept:
        assert case.title in text
    assert "McNemar" in text and "This is a run of size “tiny”" in text
    assert (tmp_path / "img" / "audit_embedded_tau.png").is_file()
