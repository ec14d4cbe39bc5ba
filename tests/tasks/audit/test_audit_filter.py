"""Filter mode gives out rates, and nothing else."""

import json
import re

import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.runs import load_checkpoint
from adjointdpm.tasks import run_audit
from adjointdpm.tasks.audit.filters import EmbeddingFilter
from tests.tasks.audit.networks import Tiny

PROMPTS = ("red apple", "blue pizza", "green carrot", "cake")
FILTER = {"mode": "filter", "owner": "The Orchard <b>", "purpose": "to see that the tool works", "labels": (),
          "prompts": PROMPTS}  # fmt: skip


class Features(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tiny = Tiny()

    def forward(self, images):
        return self.tiny.features(images)


@pytest.fixture(scope="module")
def clean(gen):
    """Embeddings of the clean images."""
    embeds, negative = gen.encode_prompt(list(PROMPTS), "")
    noise = torch.cat([gen.prepare_latents(1, seed) for seed in range(4)])
    with torch.no_grad():
        out = gen(prompt_embeds=embeds, negative_prompt_embeds=negative, latents=noise, num_inference_steps=2,
                  guidance_scale=3.0)  # fmt: skip
        return torch.nn.functional.normalize(Features()((out.image * 255).round() / 255))


@pytest.fixture
def food(clean):
    """Flags every clean image, by a small margin."""

    def make(margin=1e-3, **changes):
        concepts = clean.mean(dim=0)[None]
        cosines = clean @ torch.nn.functional.normalize(concepts)[0]
        return EmbeddingFilter(Features().requires_grad_(False), concepts, cosines.min()[None] - margin, ("food",),
                               **changes)  # fmt: skip

    return make


def test_nothing_but_rates_is_written(gen, settings, food, judged):
    result = run_audit(settings(**FILTER), gen, network=food(), judge=judged)
    found = result.results
    assert found["n"] == 4 and found["methods"]["exact"]["rates"][-1]["share"] >= 0.5
    assert result.found is None
    names = {path.name for path in result.folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert names - {"checkpoint.json"} == {
        "results.json", "report.html", "run.json", "log.jsonl", *(n for n in names if re.fullmatch(r"checkpoint-.*", n))
    }  # fmt: skip
    state = load_checkpoint(result.folder).state
    assert set(state) == {"budget", "tally", "seconds"}
    assert not any(isinstance(value, torch.Tensor) for value in _leaves(state))
    texts = {path: path.read_text() for path in result.folder.rglob("*") if path.suffix in (".json", ".html", ".jsonl")}
    for path, text in texts.items():
        for word in ("red apple", "pizza", "carrot", "margins", "embeds"):
            assert word not in text, (path.name, word)
    for text in (texts[result.results_path], texts[result.folder / "run.json"]):
        assert '"seed": 0' in text or '"seed"' not in text
        assert "data:image" not in text
    page = texts[result.report_path]
    assert page.count("data:image") == 2  # the two charts
    assert 'class="pixels"' not in page
    assert {len(row) for row in map(json.loads, texts[result.folder / "log.jsonl"].splitlines())} == {3}


def _leaves(value):
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


def test_owner_purpose_and_rules_are_in_the_report(gen, settings, food, judged):
    page = run_audit(settings(**FILTER, baselines=()), gen, network=food(), judge=judged).report_path.read_text()
    assert "Owner of the network: The Orchard &lt;b&gt;." in page
    assert "Purpose of the audit: to see that the tool works." in page
    assert "docs/responsible-use.md" in page
    assert "PROMPT..." in page  # the command to repeat it does not hold the prompts


def test_the_result_object_holds_no_images(gen, settings, food, judged):
    result = run_audit(settings(**FILTER, baselines=("best_of_n",)), gen, network=food(), judge=judged)
    assert not any(isinstance(leaf, torch.Tensor) for leaf in _leaves(vars(result)))
    assert "rows" not in result.results and "found" not in result.results


def test_a_filter_that_misses_everything_is_refused(gen, settings, food, judged):
    with pytest.raises(InvalidInput, match="none of 4 clean images is right to start with"):
        run_audit(settings(**FILTER), gen, network=food(margin=-1.0), judge=judged)
    assert not settings().out.exists()


def test_special_care_at_the_start_is_dropped_and_counted(gen, settings, food, judged, clean):
    network = food(special_care=clean[1][None], special_thresholds=torch.tensor([0.99999]))
    found = run_audit(settings(**FILTER, baselines=()), gen, network=network, judge=judged).results
    assert found["clean"]["dropped"] == 1 and found["n"] == 3


def test_special_care_on_the_way_is_dropped_and_counted(gen, settings, food, judged, clean):
    """A special concept that whatever leads away from food comes near to."""
    opposite = -torch.nn.functional.normalize(clean.mean(dim=0)[None])
    network = food(special_care=opposite, special_thresholds=(clean @ opposite[0]).max()[None] + 1e-3)
    calm = run_audit(settings(**FILTER, taus=(1e-4,), baselines=()), gen, network=food(margin=1.0), judge=judged)
    assert calm.results["dropped"] == 0
    found = run_audit(settings(out=settings().out / "b", **FILTER, baselines=("random",)), gen, network=network,
                      judge=judged).results  # fmt: skip
    assert found["clean"]["dropped"] == 0
    assert found["dropped"] >= 1 and found["dropped"] + found["n"] == 4


def test_the_loss_does_not_see_special_care(gen, settings, food, clean):
    from adjointdpm.tasks.audit.filters import FilterUnderAudit
    from adjointdpm.tasks.audit.samples import Sample
    from adjointdpm.tasks.audit.subject import FilterSubject

    samples = [Sample(0, "a", 0)]
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    gradients = []
    for changes in ({}, {"special_care": clean[:2], "special_thresholds": torch.zeros(2)}):
        leaf = images.clone().requires_grad_()
        FilterSubject(FilterUnderAudit(food(**changes), "food")).opinion(leaf, samples).loss.sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_an_interrupted_run_goes_on_from_its_counts(gen, settings, food, judged, monkeypatch):
    whole = run_audit(settings(out=settings().out / "whole", **FILTER), gen, network=food(), judge=judged)
    from adjointdpm.tasks.audit import bench

    original, count = bench.Bench.rows, 0

    def dies(self, *args):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(bench.Bench, "rows", dies)
    config = settings(out=settings().out / "cut", **FILTER)
    with pytest.raises(KeyboardInterrupt):
        run_audit(config, gen, network=food(), judge=judged)
    resumed = run_audit(config, gen, network=food(), judge=judged)
    assert count == 3 and resumed.results["methods"] == whole.results["methods"]


def test_hardening_writes_weights_and_rates_only(gen, settings, food, judged):
    changes = {"harden": True, "control_prompts": ("dog", "star"), "harden_steps": 5, "harden_rounds": 1,
               "held_out_noises": 1, "baselines": ()}  # fmt: skip
    network = food(margin=0.02)
    before = {k: v.clone() for k, v in network.module.state_dict().items()}
    result = run_audit(settings(**FILTER, **changes), gen, network=network, judge=judged)
    assert all(torch.equal(before[k], v) for k, v in network.module.state_dict().items())
    names = {path.name for path in result.folder.rglob("*") if path.is_file()}
    assert "hardened.safetensors" in names and not any(name.endswith(".png") for name in names)
    state = load_checkpoint(result.folder).state["hardening"]
    assert set(state) == {"before", "images", "trained", "after", "control_kept"}
    assert "After hardening" in result.report_path.read_text()


def test_a_finished_run_is_not_hardened_again(gen, settings, food, judged, monkeypatch):
    changes = {"harden": True, "control_prompts": ("dog", "star"), "harden_steps": 2, "harden_rounds": 1,
               "held_out_noises": 1, "baselines": ()}  # fmt: skip
    first = run_audit(settings(**FILTER, **changes), gen, network=food(margin=0.02), judge=judged)
    monkeypatch.delattr("adjointdpm.tasks.audit.harden.search_all")
    again = run_audit(settings(**FILTER, **changes), gen, network=food(margin=0.02), judge=judged)
    assert again.results["hardening"] == first.results["hardening"]
