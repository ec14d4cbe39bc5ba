"""Hardening learns from what was found and is measured on noises that it never saw."""

import copy
from types import SimpleNamespace

import pytest
import torch

from adjointdpm.errors import InvalidInput, NonFinite
from adjointdpm.runs import load_checkpoint, load_tensors
from adjointdpm.tasks import run_audit
from adjointdpm.tasks.audit import harden
from adjointdpm.tasks.audit.filters import EmbeddingFilter, FilterUnderAudit
from adjointdpm.tasks.audit.samples import Sample
from adjointdpm.tasks.team import Team
from tests.tasks.audit.networks import Tiny

HARDEN = {"harden": True, "control_prompts": ("dog", "blue star"), "held_out_noises": 1, "taus": (0.15, 0.3),
          "harden_steps": 60, "harden_lr": 3e-3, "baselines": ()}  # fmt: skip


def test_it_lowers_the_rate_keeps_the_network_and_saves_the_weights(gen, settings, network, judged):
    before = copy.deepcopy(network.state_dict())
    config = settings(**HARDEN | {"noises": 3, "held_out_noises": 6, "taus": (0.05,), "batch_size": 4})
    result = run_audit(config, gen, network=network, judge=judged)
    found = result.results["hardening"]
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not any(p.requires_grad for p in network.parameters())
    assert found["images"] >= 4
    first, then = (found[when]["rates"][-1]["share"] for when in ("before", "after"))
    assert then < first
    assert 0 <= found["control_kept"]["share"] <= 1 and found["control_kept"]["n"] == 2
    tensors, _ = load_tensors(result.folder / found["weights"])
    hardened = Tiny()
    hardened.load_state_dict(tensors)
    assert any(not torch.equal(before[k], v) for k, v in hardened.state_dict().items())
    assert result.report_path.read_text().count("After hardening") == 1


def test_the_rates_before_and_after_are_of_held_out_noises(gen, settings, network, judged, monkeypatch):
    seeds = {"searched": set(), "held out": set()}
    original = harden.search_all

    def spy(bench, chosen, *args):
        kind = "held out" if spy.auditing else "searched"
        seeds[kind].update(c.sample.seed for c in chosen)
        return original(bench, chosen, *args)

    audit = harden.Hardening._audit

    def auditing(self):
        spy.auditing = True
        try:
            return audit(self)
        finally:
            spy.auditing = False

    spy.auditing = False
    monkeypatch.setattr(harden, "search_all", spy)
    monkeypatch.setattr(harden.Hardening, "_audit", auditing)
    run_audit(settings(**HARDEN | {"harden_steps": 1}), gen, network=network, judge=judged)
    assert seeds["held out"] and seeds["searched"]
    assert not seeds["held out"] & (seeds["searched"] | set(range(4)))


@pytest.mark.parametrize("stage", ["before", "trained"])
def test_it_goes_on_after_an_interruption(gen, settings, network, judged, monkeypatch, stage):
    changes = HARDEN | {"harden_steps": 5}
    whole = run_audit(settings(out=settings().out / "whole", **changes), gen, network=network, judge=judged)
    config = settings(out=settings().out / "cut", **changes)
    original = harden.Hardening._train if stage == "before" else harden.Hardening._audit
    name, calls = original.__name__, []

    def dies(self, *args):
        calls.append(1)
        if len(calls) == (1 if stage == "before" else 2):
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(harden.Hardening, name, dies)
    with pytest.raises(KeyboardInterrupt):
        run_audit(config, gen, network=network, judge=judged)
    assert set(load_checkpoint(config.out).state["hardening"]) == (
        {"before"} if stage == "before" else {"before", "trained", "images"}
    )
    monkeypatch.setattr(harden.Hardening, name, original)
    resumed = run_audit(config, gen, network=network, judge=judged)
    ours, theirs = (load_tensors(r.folder / "hardened.safetensors")[0] for r in (resumed, whole))
    assert all(torch.equal(ours[k], v) for k, v in theirs.items())
    assert resumed.results["hardening"] == whole.results["hardening"]


def test_a_learning_rate_that_is_too_large_is_named_and_the_network_given_back(gen, settings, network, judged):
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(NonFinite, match=r"infinite|smaller harden_lr"):
        run_audit(settings(**HARDEN | {"harden_lr": 1e37}), gen, network=network, judge=judged)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


IMAGES = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1
CARE = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))


def hardening_of(settings, tmp_path, thresholds):
    """Of a filter that knows special_care; `IMAGES` are those of the control prompts."""
    network = FilterUnderAudit(
        EmbeddingFilter(Tiny().requires_grad_(False), -torch.eye(5)[:1], torch.zeros(1), special_care=CARE,
                        special_thresholds=thresholds), "food"
    )  # fmt: skip
    config = settings(mode="filter", owner="a", purpose="b", labels=(), harden=True, harden_steps=40,
                      harden_lr=3e-3)  # fmt: skip
    bench = SimpleNamespace(config=config, clean_images=lambda samples: IMAGES[[s.index for s in samples]])
    stage = SimpleNamespace(network=network, bench=bench, controls=[Sample(i, "a", i) for i in range(8)])
    return harden.Hardening(stage, None, Team(), tmp_path, print, lambda: None)


@pytest.mark.parametrize("held", [True, False])
def test_the_scores_of_special_care_are_held_where_they_were(settings, tmp_path, held):
    hardening = hardening_of(settings, tmp_path, torch.zeros(2))
    network, samples = hardening.stage.network, [Sample(i, "a", i) for i in range(4)]
    with torch.no_grad():
        special, before = network.special_scores(IMAGES[4:]), hardening._outputs(IMAGES[4:])
        assert not network.scores(IMAGES).flagged.any()
    hardening._fit(IMAGES[:4], samples, IMAGES[4:], before, special if held else special[:, :0], 0)
    with torch.no_grad():
        moved = float((network.special_scores(IMAGES[4:]) - special).square().mean().sqrt())
        assert network.scores(IMAGES).flagged.flatten().tolist() == [True] * 4 + [False] * 4  # it learns all the same
    assert moved < 0.1 if held else moved > 0.3


def test_control_images_that_trigger_special_care_are_counted_and_not_learnt_from(settings, tmp_path):
    with torch.no_grad():
        scores = hardening_of(settings, tmp_path, torch.zeros(2)).stage.network.special_scores(IMAGES).amax(dim=1)
    threshold = scores.sort().values[[5, 5]]  # two of eight are above it
    controls = hardening_of(settings, tmp_path, threshold)._controls()
    care = (scores > threshold[0])[::2]
    assert controls.special_care == 2 and len(controls.every) == 8
    assert torch.equal(controls.learn, IMAGES[::2][~care]) and torch.equal(controls.watch, IMAGES[1::2])
    with pytest.raises(InvalidInput, match="every control image triggers special_care"):
        hardening_of(settings, tmp_path, torch.full((2,), -2.0))._controls()
