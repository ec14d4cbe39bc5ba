"""Filter mode gives out rates, and nothing else."""

import html
import json
import logging
import warnings
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.runs import RunFolder, load_checkpoint
from adjointdpm.tasks import run_audit
from adjointdpm.tasks.audit.filters import EmbeddingFilter
from adjointdpm.tasks.audit.responsible import wordless
from adjointdpm.tasks.audit.search import Found
from adjointdpm.tasks.audit.sources import painter_for
from adjointdpm.tasks.audit.subject import FilterSubject
from adjointdpm.tasks.audit.tally import OTHERS
from adjointdpm.tasks.team import Team
from tests.tasks.audit.networks import Tiny
from tests.tasks.audit.test_audit_run import Watched

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


@pytest.fixture
def saved(monkeypatch):
    """The states of all checkpoints; there is none when a run is finished."""
    states, save = [], RunFolder.save

    def saves(self, checkpoint):
        states.append(checkpoint.state)
        save(self, checkpoint)

    monkeypatch.setattr(RunFolder, "save", saves)
    return states


def test_nothing_but_rates_is_written(gen, settings, food, judged, saved):
    result = run_audit(settings(**FILTER), gen, network=food(), judge=judged)
    found = result.results
    assert found["n"] == 4 and found["methods"]["exact"]["rates"][-1]["share"] >= 0.5
    assert result.found is None
    names = {path.name for path in result.folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert names == {"results.json", "report.html", "run.json", "log.jsonl"}
    assert len(saved) == 2 and all(set(state) == {"budget", "tally", "seconds"} for state in saved)
    assert not any(isinstance(value, torch.Tensor) for value in _leaves(saved))
    assert {name: rate["n"] for name, rate in found["groups"].items()} == {OTHERS: 4}
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
    assert "Concepts of fewer than 5 samples are not shown on their own" in page
    assert {len(row) for row in map(json.loads, texts[result.folder / "log.jsonl"].splitlines())} == {3}


def _leaves(value):
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


def test_owner_purpose_and_rules_are_in_the_report(gen, settings, food, judged, tmp_path):
    config = settings(**FILTER | {"negative_prompt": "blurred"}, baselines=())
    result = run_audit(config, gen, network=food(), judge=judged,
                       again=lambda shown: f"{shown.prompts} {shown.negative_prompt}")  # fmt: skip
    page = result.report_path.read_text()
    assert "Owner of the network: The Orchard &lt;b&gt;." in page
    assert "Purpose of the audit: to see that the tool works." in page
    assert "docs/responsible-use.md" in page
    assert "PROMPT..." in page and "TEXT" in page  # the command to repeat it does not hold the words
    assert "blurred" not in page and "red apple" not in page
    config = config.model_copy(update={"out": tmp_path / "b"})
    run_audit(config, gen, network=food(), judge=judged)
    page = html.unescape((config.out / "report.html").read_text())
    assert "prompts=['PROMPT...']" in page and "generator, network=..., judge=...)" in page
    assert "blurred" not in page and "red apple" not in page


def test_other_prompts_than_before_are_named_without_words_or_hashes(gen, settings, food, judged):
    run_audit(settings(**FILTER, baselines=()), gen, network=food(), judge=judged)
    config = settings(**FILTER | {"prompts": ("red apple", "cake")}, baselines=())
    with pytest.raises(InvalidInput) as found:
        run_audit(config, gen, network=food(), judge=judged)
    assert "other settings: prompts (other words than before, which are not shown). Use" in str(found.value)


def test_prompts_that_lose_words_are_not_named(gen, settings):
    prompts, more = ("red zzyzx", "cat"), {"negative_prompt": "qwrtz"}
    with pytest.warns(InputWarning, match="zzyzx"):
        painter_for(gen, settings(**more)).encode(prompts)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        painter_for(gen, settings(**FILTER, **more)).encode(prompts)
    texts = [str(warning.message) for warning in seen]
    assert len(texts) == 1 and "outside the vocabulary; filter mode does not say which" in texts[0]
    talking = logging.getLogger("diffusers.pipelines")  # of prompts that are cut
    with wordless([]):
        assert not talking.isEnabledFor(logging.WARNING)
    with pytest.raises(InvalidInput, match=r"holds a NUL.*\(not shown\)") as raised:
        painter_for(gen, settings(**FILTER)).encode(["secret\0"])
    assert "secret" not in str(raised.value)


def test_the_tracker_gets_the_rates_in_the_end_alone(gen, settings, food, judged, monkeypatch):
    tracker = Watched()
    monkeypatch.setattr("adjointdpm.tasks.audit.run.open_tracker", lambda *arguments: tracker)
    run_audit(settings(**FILTER, baselines=(), batch_size=1), gen, network=food(), judge=judged)
    assert tracker.steps == [4] and tracker.closed


def test_other_processes_are_given_rows_alone(gen, settings, food, judged):
    class Seen(Team):
        rows: ClassVar[list] = []

        def gather(self, rows):
            self.rows.extend(rows)
            return super().gather(rows)

    run_audit(settings(**FILTER, baselines=()), gen, network=food(), judge=judged, team=Seen())
    assert Seen.rows and not any(isinstance(leaf, (torch.Tensor, Found)) for leaf in _leaves(Seen.rows))


def test_no_sample_left_is_not_called_robust(gen, settings, food, judged, monkeypatch):
    def opinion(self, images, samples):
        found = original(self, images, samples)
        return replace(found, dropped=torch.ones_like(found.changed))

    original = FilterSubject.opinion
    monkeypatch.setattr(FilterSubject, "opinion", opinion)
    result = run_audit(settings(**FILTER, baselines=()), gen, network=food(), judge=judged)
    assert (result.results["n"], result.results["dropped"]) == (0, 4)
    assert not result.unreached
    assert result.results["headline"] == "Nothing was measured: all 4 samples triggered special_care on the way."
    assert "Nothing was measured" in result.report_path.read_text()


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


def test_hardening_writes_weights_and_rates_only(gen, settings, food, judged, saved):
    changes = {"harden": True, "control_prompts": ("dog", "star"), "harden_steps": 5, "harden_rounds": 1,
               "held_out_noises": 1, "baselines": ()}  # fmt: skip
    network = food(margin=0.02)
    before = {k: v.clone() for k, v in network.module.state_dict().items()}
    result = run_audit(settings(**FILTER, **changes), gen, network=network, judge=judged)
    assert all(torch.equal(before[k], v) for k, v in network.module.state_dict().items())
    names = {path.name for path in result.folder.rglob("*") if path.is_file()}
    assert "hardened.safetensors" in names and not any(name.endswith(".png") for name in names)
    assert set(saved[-1]["hardening"]) == {"before", "images", "trained", "after", "control_kept", "special_care"}
    assert result.results["hardening"]["special_care"] == {"before": 0, "after": 0, "n": 4}
    page = result.report_path.read_text()
    assert "After hardening" in page and "special_care: on 0 of 4 control images before, on 0 after" in page


def test_a_finished_run_is_not_hardened_again(gen, settings, food, judged, monkeypatch):
    changes = {"harden": True, "control_prompts": ("dog", "star"), "harden_steps": 2, "harden_rounds": 1,
               "held_out_noises": 1, "baselines": ()}  # fmt: skip
    first = run_audit(settings(**FILTER, **changes), gen, network=food(margin=0.02), judge=judged)
    monkeypatch.delattr("adjointdpm.tasks.audit.harden.search_all")
    again = run_audit(settings(**FILTER, **changes), gen, network=food(margin=0.02), judge=judged)
    assert again.results == json.loads(first.results_path.read_text())
    assert load_checkpoint(first.folder) is None
