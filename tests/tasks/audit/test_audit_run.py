"""An audit of a classifier from beginning to end, on a small random pipeline."""

import html
import json

import pytest
import torch
from PIL import Image
from torch import nn

import adjointdpm
from adjointdpm.errors import InputWarning, InvalidInput, NotDifferentiable
from adjointdpm.pipelines import differentiable
from adjointdpm.runs import OutputError, RunFolder, load_checkpoint, load_tensors, read_jsonl
from adjointdpm.tasks import run_audit
from adjointdpm.tasks.again import in_python
from adjointdpm.tasks.audit.projections import Bound
from tests.support.tiny_pipeline import tiny_pipeline
from tests.tasks.audit import networks
from tests.tasks.audit.networks import Tiny

METHODS = ("exact", "random", "best_of_n", "one_step", "adjoint")


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def rows(folder):
    return load_checkpoint(folder).state["rows"]


def test_it_counts_reports_and_leaves_everything_alone(gen, settings, network, judged):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    seen = []
    result = run_audit(settings(), gen, network=network, judge=judged, transfer=(networks.other(),),
                       on_progress=lambda *a: seen.append(a))  # fmt: skip
    found = result.results
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert found["n"] == 4 and tuple(found["methods"]) == METHODS
    shares = [row["share"] for row in found["methods"]["exact"]["rates"]]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert found["clean"] == {"samples": 4, "wrong": 0, "not_shown": 0, "dropped": 0}
    assert not result.unreached and found["left_out"] == {}
    calls = found["calls"]
    assert calls["bound"] == 3 * calls["steps"]["exact"] + calls["forward"]
    assert all(row["methods"][m]["calls"] <= 2 * calls["bound"] for row in rows(result.folder) for m in METHODS)
    assert set(found["transfer"]) == {"Tiny 1"}
    assert json.loads(result.results_path.read_text())["methods"] == json.loads(json.dumps(found["methods"]))
    record = json.loads((result.folder / "run.json").read_text())
    assert record["status"] == "finished" and record["results"]["headline"] == found["headline"]
    page = result.report_path.read_text()
    for text in ("exact gradients", "best of n draws", "McNemar", "Wilson", "sample by sample", "docs/responsible-use",
                 "six checks of AutoAttack", found["headline"]):  # fmt: skip
        assert text in page, text
    assert seen[-1][0] <= seen[-1][1] and {"clean images", "exact", "adjoint"} <= {what for _, _, what in seen}
    assert [row["step"] for row in read_jsonl(result.folder / "log.jsonl")] == [1, 2]


def test_pictures_and_noises_are_written_by_flag_only(gen, settings, network, judged):
    plain = run_audit(settings(baselines=()), gen, network=network, judge=judged)
    assert plain.found is None
    assert not any(name.endswith(".png") or "found" in name for name in files(plain.folder))
    assert 'class="pixels"' not in plain.report_path.read_text()
    config = settings(out=plain.folder.parent / "with", baselines=(), images=True)
    result = run_audit(config, gen, network=network, judge=judged)
    assert result.found is not None
    tensors, _ = load_tensors(result.found)
    noise = torch.cat([gen.prepare_latents(1, seed) for seed in range(4)])
    for i in range(4):
        success = tensors[f"{i}.success"]
        assert success.tolist() == sorted(success.tolist())
        assert len(success) == len(tensors[f"{i}.raw"]) == len(tensors[f"{i}.clipped"]) == len(config.taus)
        for k, x in enumerate(tensors[f"{i}.clipped"]):
            assert float(Bound("linf", config.taus[k]).excess(x[None], noise[[i]])) == 0
        assert torch.allclose(tensors[f"{i}.raw"], tensors[f"{i}.clipped"], atol=1e-5)
    for name in ("clean", "found"):
        with Image.open(result.folder / "images" / f"0001-{name}.png") as picture:
            assert picture.size == (16, 16)
    assert 'class="pixels"' in result.report_path.read_text()


def test_what_was_found_fools_the_network_when_it_is_painted_again(gen, settings, network, judged):
    """The triple's success is that of the clipped noise, on the picture that a file holds."""
    result = run_audit(settings(baselines=(), images=True), gen, network=network, judge=judged)
    tensors, _ = load_tensors(result.found)
    count = 0
    for i, (prompt, label) in enumerate(zip(settings().prompts, settings().labels, strict=True)):
        with Image.open(result.folder / "images" / f"{i:04d}-found.png") as picture:
            pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(16, 16, 3)
        verdict = int(network(pixels.permute(2, 0, 1)[None].float() / 255).argmax())
        assert (verdict != label) == bool(tensors[f"{i}.success"][-1]), prompt
        count += verdict != label
    assert count >= 3


def test_every_loss_optimiser_and_norm_finds_something(gen, settings, network, judged):
    for k, changes in enumerate(
        ({"loss": "cross_entropy"}, {"loss": "dlr", "optimiser": "apgd"}, {"optimiser": "adam", "norm": "l2"},
         {"norm": "shell", "restarts": 2}, {"mixed_precision": "bf16"})
    ):  # fmt: skip
        config = settings(out=settings().out / str(k), baselines=(), **changes)
        found = run_audit(config, gen, network=network, judge=judged).results
        assert found["methods"]["exact"]["rates"][-1]["share"] >= 0.75, changes


def test_a_targeted_search_reaches_the_target(gen, settings, network, judged, labels):
    target = next(k for k in range(networks.CLASSES) if k not in labels)
    config = settings(target_class=target, iterations=10, taus=(1.5,), baselines=(), images=True)
    result = run_audit(config, gen, network=network, judge=judged)
    assert result.results["methods"]["exact"]["rates"][-1]["hits"] >= 1
    for row in rows(result.folder):
        with Image.open(result.folder / "images" / f"{row['index']:04d}-found.png") as picture:
            pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(16, 16, 3)
        hit = int(network(pixels.permute(2, 0, 1)[None].float() / 255).argmax()) == target
        assert hit == row["methods"]["exact"]["counts"][-1]


def test_the_judge_decides_what_counts_but_not_where_the_search_ends(gen, settings, network):
    def refuses_changed(images, prompts):
        """Agrees with the clean images only: it is tried on them first, then judges them."""
        refuses_changed.calls += 1
        return [refuses_changed.calls <= 2] * len(images)

    refuses_changed.calls = 0
    config = settings(batch_size=None, baselines=())
    found = run_audit(config, gen, network=network, judge=refuses_changed).results
    rate = found["methods"]["exact"]["rates"][-1]
    assert rate["hits"] == 0 and rate["verdict_changed"]["hits"] == 4
    assert not found["unreached"]


def test_samples_that_are_wrong_or_not_shown_to_start_with_are_left_out(gen, settings, network, labels):
    wrong = ((labels[0] + 1) % networks.CLASSES, *labels[1:])
    calls = []

    def judge(images, prompts):
        calls.append(prompts)
        return ["star" not in prompt for prompt in prompts]

    found = run_audit(settings(labels=wrong, baselines=()), gen, network=network, judge=judge).results
    assert found["n"] == 2
    assert found["clean"] == {"samples": 4, "wrong": 1, "not_shown": 1, "dropped": 0}


def test_nothing_right_to_start_with_is_refused_and_nothing_is_written(gen, settings, network, judged, labels):
    wrong = tuple((label + 1) % networks.CLASSES for label in labels)
    with pytest.raises(InvalidInput, match=r"none of 4 clean images is right to start with.*wrong on 4"):
        run_audit(settings(labels=wrong), gen, network=network, judge=judged)
    assert not settings().out.exists()


def test_a_bound_that_is_never_enough_keeps_the_best_found(gen, settings, network, judged):
    result = run_audit(settings(taus=(1e-5,), baselines=("random",)), gen, network=network, judge=judged)
    assert result.unreached and result.results["unreached"]
    assert result.results["methods"]["exact"]["rates"][-1]["hits"] == 0
    margins = [row["methods"]["exact"]["margins"] for row in rows(result.folder)]
    assert all(len(m) == 1 and m[0] < 0 for m in margins)


@pytest.mark.parametrize(
    ("changes", "arguments", "error", "message"),
    [
        ({"labels": (99,)}, {}, InvalidInput, "label 99 is out of range: expected a number from 0 to 4"),
        ({"labels": (2,), "target_class": 2}, {}, InvalidInput, "is the class of 'red apple' itself"),
        ({"labels": ()}, {}, InvalidInput, "labels are missing"),
        ({"prompts": (), "labels": ()}, {}, InvalidInput, "no prompts are given"),
        ({}, {"network": None}, InvalidInput, "network is missing"),
        ({"preprocessing": ("tests.tasks.audit.networks:eight_bits",)}, {}, NotDifferentiable, "networks:eight_bits"),
        ({"classes": ("a", "b")}, {}, InvalidInput, "5 outputs, but classes names 2"),
        ({"harden": True, "control_prompts": ("dog",)}, {"network": lambda x: x.mean(dim=(2, 3))}, InvalidInput,
         "plain function without weights"),
        ({"harden": True}, {}, InvalidInput, "harden needs control_prompts"),
        ({"loss": "dlr", "labels": (0,)}, {"network": lambda x: x.mean(dim=(1, 2, 3)) - 0.5}, InvalidInput,
         "for more classes than the 2"),
        ({}, {"network": lambda x: x.mean(dim=(2, 3)) * float("nan")}, InvalidInput, "NaN"),
        ({"labels": (0,)}, {"network": lambda x: x.mean(dim=(1, 2, 3)).sigmoid()}, InvalidInput, "one_probability"),
        ({}, {"judge": lambda x: x.mean(dim=(2, 3))}, InvalidInput, "the judge function has 3 outputs"),
        ({}, {"judge": lambda x: {}["a"]}, InvalidInput, r"the judge function .* fails at test_audit_run.py.*KeyError"),
        ({}, {"judge": lambda: 1}, InvalidInput, r"takes no arguments; expected \(images\) or \(images, prompts\)"),
        ({"preprocessing": ("tests.tasks.audit.networks:breaks",)}, {}, InvalidInput, "networks:breaks' fails at netw"),
        ({}, {"transfer": (Tiny(1, classes=7),)}, InvalidInput, "Tiny 1 has 7 outputs, Tiny has 5"),
        ({}, {"transfer": (lambda x: x[:, :, :99, 99],)}, InvalidInput, r"function 1 with .* fails at test_audit"),
    ],
)  # fmt: skip
def test_bad_inputs_are_refused_before_anything_is_written(gen, settings, judged, changes, arguments, error, message):
    with pytest.raises(error, match=message):
        run_audit(settings(**changes), gen, **{"network": Tiny(), "judge": judged, **arguments})
    assert not settings().out.exists()


def test_generators_that_cannot_be_audited_are_refused(gen, settings, network):
    with pytest.raises(InvalidInput, match="expected a generator"):
        run_audit(settings(), gen.pipe, network=network)
    with pytest.raises(InvalidInput, match="own must be exact"):
        run_audit(settings(), gen.with_(solver="ab4", gradient="adjoint"), network=network)
    with RunFolder(settings().out, "audit", {}), pytest.raises(OutputError, match="in use by process"):
        run_audit(settings(), gen, network=network)


def test_without_a_judge_everything_counts_and_that_is_said(gen, settings, network):
    with pytest.warns(InputWarning, match="no judge"):
        result = run_audit(settings(baselines=()), gen, network=network)
    assert "nobody judged" in result.report_path.read_text()


def test_a_baseline_that_does_not_run_is_left_out_with_the_reason(gen, settings, network, judged):
    """Which the call shows, and not the making of the source."""
    generator = gen.with_(solver="ancestral")
    config = settings(labels=run_labels(generator, settings, network), baselines=("adjoint",))
    for _ in range(2):  # the second time from the checkpoint
        with pytest.warns(InputWarning, match="'adjoint' does not run with this generator"):
            result = run_audit(config, generator, network=network, judge=judged)
        assert tuple(result.results["methods"]) == ("exact",)
        assert "no backward ODE" in result.results["left_out"]["adjoint"]
        assert "no backward ODE" in result.report_path.read_text()


def test_exact_gradients_that_do_not_run_are_an_error(gen, settings, network, judged, monkeypatch):
    def refuses(self, scene, x):
        raise InvalidInput("not with this autoencoder")

    monkeypatch.setattr("adjointdpm.tasks.audit.sources.Exact.climb", refuses)
    with pytest.raises(InvalidInput, match="not with this autoencoder"):
        run_audit(settings(), gen, network=network, judge=judged)


def test_a_baseline_that_cannot_pay_for_a_step_is_left_out(gen, settings, network, judged):
    with pytest.warns(InputWarning, match=r"'adjoint' needs \d+ network calls .* more than the 8 that a start has"):
        result = run_audit(
            settings(iterations=1, baselines=("adjoint", "one_step")), gen, network=network, judge=judged
        )
    assert tuple(result.results["methods"]) == ("exact", "one_step")
    assert "raise iterations" in result.results["left_out"]["adjoint"]


def test_a_folder_answers_for_the_networks_that_it_was_made_with(gen, settings, judged):
    config = settings(baselines=())
    parts = {"network": Tiny(), "judge": judged, "transfer": (networks.other(),)}
    first = run_audit(config, gen, **parts)
    for name, other in (("network", networks.other()), ("judge", networks.other()), ("transfer", (networks.tiny(),)),
                        ("transfer", ())):  # fmt: skip
        with pytest.raises(InvalidInput, match=f"holds a run with other settings: model: {name} "):
            run_audit(config, gen, **parts | {name: other})
    again = run_audit(config, gen, **parts | {"network": Tiny()})
    assert again.results["methods"] == first.results["methods"]


def test_images_cannot_be_asked_for_afterwards(gen, settings, network, judged):
    run_audit(settings(baselines=()), gen, network=network, judge=judged)
    with pytest.raises(InvalidInput, match=r"holds a run with other settings: images \(was False, now True\)"):
        run_audit(settings(baselines=(), images=True), gen, network=network, judge=judged)


@pytest.mark.parametrize("norm", ["linf", "l2", "shell"])
def test_in_half_precision_noises_stay_within_their_bounds(settings, network, judged, norm):
    generator = differentiable(tiny_pipeline().to(torch.bfloat16))
    labels = run_labels(generator, settings, network)
    config = settings(labels=labels, taus=(0.02, 0.05), norm=norm, baselines=("best_of_n",), images=True)
    tensors, _ = load_tensors(run_audit(config, generator, network=network, judge=judged).found)
    noise = torch.cat([generator.prepare_latents(1, seed) for seed in range(4)])
    for i in range(4):
        for k, tau in enumerate(config.taus):
            raw, clipped = (tensors[f"{i}.{part}"][[k]] for part in ("raw", "clipped"))
            assert float(Bound(norm, tau).excess(raw, noise[[i]])) < 1e-4
            assert norm == "shell" or float(Bound(norm, tau).excess(clipped, noise[[i]])) == 0


class Watched:
    """A tracker that remembers."""

    def __init__(self):
        self.steps, self.closed = [], False

    def log(self, step, values):
        self.steps.append(step)

    def close(self):
        self.closed = True


def test_the_tracker_gets_the_rates_of_each_round_and_is_closed(gen, settings, network, judged, monkeypatch):
    tracker = Watched()
    monkeypatch.setattr("adjointdpm.tasks.audit.run.open_tracker", lambda *arguments: tracker)
    run_audit(settings(baselines=()), gen, network=network, judge=judged)
    assert tracker.steps == [1, 2] and tracker.closed


def test_the_tracker_is_closed_after_an_error(gen, settings, network, judged, monkeypatch):
    tracker = Watched()
    monkeypatch.setattr("adjointdpm.tasks.audit.run.open_tracker", lambda *arguments: tracker)
    with pytest.raises(InvalidInput, match="no prompts"):
        run_audit(settings(prompts=(), labels=()), gen, network=network, judge=judged)
    assert tracker.closed


def test_in_python_the_report_says_how_to_repeat_it(gen, settings, network, judged):
    config = settings(baselines=(), batch_size=None, out=settings().out / "it's")
    first = run_audit(config, gen, network=network, judge=judged)
    code = in_python("run_audit", config.shown(), {"network": network, "judge": judged, "transfer": ()})
    assert code in html.unescape(first.report_path.read_text())
    names = {"adjointdpm": adjointdpm, "generator": gen, "network": network, "judge": judged}
    exec(code.replace("network=...", "network=network").replace("judge=...", "judge=judge"), names)
    again = json.loads((config.out.parent / "it's-again" / "results.json").read_text())
    assert again["methods"] == json.loads(first.results_path.read_text())["methods"]
    assert again["config"] == json.loads(first.results_path.read_text())["config"]


def test_the_report_has_the_command_that_it_is_given(gen, settings, network, judged):
    result = run_audit(settings(baselines=()), gen, network=network, judge=judged,
                       again=lambda shown: f"audit {' '.join(shown.prompts)}")  # fmt: skip
    assert "audit red apple blue cat green dog star" in result.report_path.read_text()


def test_on_the_ode_road_everything_runs_on_one_sampler(gen, settings, network, judged):
    generator = gen.with_(solver="ab4")
    labels = (0, 1, 2, 3)
    clean = run_labels(generator, settings, network)
    found = run_audit(settings(labels=clean), generator, network=network, judge=judged).results
    assert tuple(found["methods"]) == METHODS and found["n"] == len(labels)
    assert found["calls"]["steps"]["one_step"] == 2 + 2


def run_labels(generator, settings, network):
    """The verdicts on the clean images of this generator."""
    from adjointdpm.tasks.audit.sources import painter_for
    from adjointdpm.tasks.audit.subject import as_saved

    config = settings()
    painter = painter_for(generator, config)
    embeds, negative = painter.encode(config.prompts)
    with torch.no_grad():
        images = as_saved(painter.generate(embeds, negative, [0, 1, 2, 3]).image_unclamped)
    return tuple(network(images).argmax(dim=1).tolist())


def test_in_float64_a_sample_does_not_depend_on_its_batch(exact_gen, settings, judged):
    network = Tiny().double().requires_grad_(False)
    labels = run_labels(exact_gen, settings, network)
    found = []
    for size in (1, 3, None):
        config = settings(out=settings().out / str(size), labels=labels, batch_size=size, images=True)
        result = run_audit(config, exact_gen, network=network, judge=judged)
        found.append(([{k: (m["taus"], m["calls"]) for k, m in row["methods"].items()} for row in rows(result.folder)],
                      load_tensors(result.found)[0]))  # fmt: skip
    for verdicts, tensors in found[1:]:
        assert verdicts == found[0][0]
        assert all(torch.allclose(tensors[k].float(), v.float(), atol=1e-5) for k, v in found[0][1].items())


def test_an_interrupted_run_goes_on_and_ends_the_same(gen, settings, network, judged, monkeypatch):
    whole = run_audit(settings(out=settings().out / "whole"), gen, network=network, judge=judged)
    from adjointdpm.tasks.audit import bench

    original, count = bench.Bench.rows, 0

    def dies(self, *args):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(bench.Bench, "rows", dies)
    config = settings(out=settings().out / "cut")
    with pytest.raises(KeyboardInterrupt):
        run_audit(config, gen, network=network, judge=judged)
    assert load_checkpoint(config.out).step == 1
    resumed = run_audit(config, gen, network=network, judge=judged)
    assert count == 3
    assert rows(resumed.folder) == rows(whole.folder)
    assert resumed.results["methods"] == whole.results["methods"]
    again = run_audit(config, gen, network=network, judge=judged)  # only reported anew
    assert count == 3 and again.results["methods"] == whole.results["methods"]
    with pytest.raises(InvalidInput, match="iterations"):
        run_audit(settings(out=config.out, iterations=9), gen, network=network, judge=judged)


def test_what_was_done_before_a_failure_is_kept(gen, settings, network, judged, monkeypatch):
    from adjointdpm.tasks.audit import bench

    original, count = bench.Bench.rows, 0

    def fails(self, *args):
        nonlocal count
        count += 1
        if count == 2:
            raise InvalidInput("the judge fails")
        return original(self, *args)

    monkeypatch.setattr(bench.Bench, "rows", fails)
    config = settings(checkpoint_every=50)
    with pytest.raises(InvalidInput, match="the judge fails"):
        run_audit(config, gen, network=network, judge=judged)
    assert json.loads((config.out / "run.json").read_text())["status"] == "failed"
    assert load_checkpoint(config.out).step == 1
    run_audit(config, gen, network=network, judge=judged)
    assert count == 3


def test_the_caller_network_keeps_its_modes(gen, settings, judged):
    network = nn.Sequential(Tiny(), nn.Identity())
    network.train()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    run_audit(settings(baselines=()), gen, network=network, judge=judged)
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert network.training and network[0].training
