"""Stylization end to end on a small random pipeline."""

import html
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.formats import fingerprint
from adjointdpm.losses.style import StyleAndContent, StyleTarget
from adjointdpm.numerics import relative_error
from adjointdpm.pipelines import differentiable
from adjointdpm.runs import OutputError, RunFolder, load_checkpoint, load_tensors, read_jsonl
from adjointdpm.runs.log import NoLog
from adjointdpm.tasks.painter import Painter
from adjointdpm.tasks.stylize.compare import paint_pairs
from adjointdpm.tasks.stylize.objective import Objective
from adjointdpm.tasks.stylize.outcome import usage
from adjointdpm.tasks.stylize.run import stylize_model
from adjointdpm.tasks.team import Team
from adjointdpm.tasks.weights import Trained
from tests.support.tiny_pipeline import tiny_pipeline
from tests.tasks.stylize.networks import Net


def weights_of(result):
    file = next(iter(sorted(result.weights.glob("*.safetensors"))), None)
    return load_tensors(file or next(result.weights.glob("unet/*.safetensors")))[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns_reports_and_leaves_the_pipeline_alone(gen, settings, tmp_path):
    for parameter in gen.pipe.unet.parameters():
        parameter.requires_grad_(True)  # as from_pretrained leaves them
    before = fingerprint(gen.pipe)
    result = stylize_model(settings(tmp_path, epochs=10, lr=0.05), gen)
    assert fingerprint(gen.pipe) == before
    assert all(p.requires_grad and p.grad is None for p in gen.pipe.unet.parameters())
    assert not hasattr(gen.pipe.unet, "peft_config")
    gen.pipe.unet.requires_grad_(False)
    assert len(result.losses) == 20
    sets = result.results["sets"]
    assert set(sets) == {"training pairs", "unseen noises", "unseen prompts"}
    optimised = result.results["features"]
    for figures in sets.values():
        gram = figures["gram"][optimised]
        assert gram["drop"] == pytest.approx(1 - gram["after"] / gram["before"])
        assert "recognised" not in figures  # nobody here knows this model's objects
    assert sets["training pairs"]["gram"][optimised]["drop"] > 0.02
    record = json.loads((result.folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["results"] == json.loads(json.dumps(result.results))
    page = result.report_path.read_text()
    assert "The style of stripes.png" in page
    assert "load_lora_weights" in page
    assert "adjointdpm.tasks.stylize_model(adjointdpm.tasks.StylizeConfig(" in page
    for name in ("training-pairs", "unseen-noises", "unseen-prompts"):
        with Image.open(result.folder / f"{name}.png") as sheet:
            assert sheet.width > 50
    rows = read_jsonl(result.folder / "terms.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 21))
    for row, loss in zip(rows, result.losses, strict=True):
        assert row["style"] + row["content"] == pytest.approx(loss, rel=1e-5)
    drawn = sorted(file.name for file in (result.folder / "validation").glob("*.png"))
    assert drawn == [f"step-{step:06d}.png" for step in range(0, 21, 2)]


@pytest.mark.parametrize("which", ["lora", "cross-attention", "all"])
def test_what_is_exported_gives_the_tasks_own_images_in_plain_diffusers(gen, settings, tmp_path, which):
    config = settings(tmp_path, weights=which, lr=1e-2 if which == "lora" else 1e-3, unseen_seeds=(9, 10))
    result = stylize_model(config, gen)
    pipe = tiny_pipeline()
    before = pipe("dog", num_inference_steps=2, guidance_scale=3.0, output_type="pt", generator=_noise(9)).images[0]
    lines = usage(config, gen, result.weights, "unet", "dog")
    assert all(line in html.unescape(result.report_path.read_text()) for line in lines.splitlines()[:1])
    space = {"pipe": pipe}
    exec(lines.splitlines()[0], space)  # the line that the report prints
    plain = pipe("dog", num_inference_steps=2, guidance_scale=3.0, output_type="pt", generator=_noise(9)).images[0]
    with Trained(gen.pipe, which, config.rank) as trained:
        saved = load_checkpoint(config.out).state["parameters"]
        with torch.no_grad():
            for name, parameter in trained.parameters.items():
                parameter.copy_(saved[name])
        painter = Painter(gen, config)
        ours = painter.paint(*painter.encode(["dog"]), [9]).image[0]
    assert float((ours - before).abs().max()) > 1e-3  # the style did something
    assert float((ours - plain).abs().max()) < 1e-5
    if which == "lora":
        fused = tiny_pipeline()
        fused.unet = type(fused.unet).from_pretrained(result.weights / "unet")
        again = fused("dog", num_inference_steps=2, guidance_scale=3.0, output_type="pt", generator=_noise(9)).images
        assert float((again[0] - ours).abs().max()) < 1e-5


def _noise(seed):
    return torch.Generator().manual_seed(seed)


def test_the_gradient_is_that_of_the_loss(gen, settings, tmp_path):
    """A directional finite difference through the whole task: weights -> images -> Gram matrices and features."""
    config = settings(tmp_path, weights="cross-attention", pairs_per_step=4)
    with Trained(gen.pipe, "cross-attention") as trained:
        painter = Painter(gen, config)
        style = StyleTarget.of(Net(0), torch.rand(1, 3, 16, 16, generator=_noise(0)))
        embeds, negative = painter.encode([p for p, _ in config.pairs])
        before = painter.paint(embeds, negative, [s for _, s in config.pairs]).image
        objective = Objective(painter, config, StyleAndContent(style, 1.0, 0.3), before, Team(), NoLog())
        objective.backward(1)
        gradients = {name: p.grad.clone() for name, p in trained.parameters.items()}
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        values, reach = [], 0.02
        for sign in (1, -1):
            with torch.no_grad():
                for name, p in trained.parameters.items():
                    p.add_(gradients[name], alpha=sign * reach / float(norm))
            values.append(objective.backward(1))
            with torch.no_grad():
                for name, p in trained.parameters.items():
                    p.sub_(gradients[name], alpha=sign * reach / float(norm))
    assert (values[0] - values[1]) / (2 * reach) == pytest.approx(float(norm), rel=0.05)


def test_exact_gradients_and_plain_backpropagation_learn_the_same_bits(gen, settings, tmp_path):
    exact = stylize_model(settings(tmp_path / "a", epochs=1), gen)
    full = stylize_model(settings(tmp_path / "b", epochs=1), gen.with_(gradient="full"))
    assert same(weights_of(exact), weights_of(full))


def test_pairs_one_at_a_time_give_the_same_weights(gen, settings, tmp_path):
    together = stylize_model(settings(tmp_path / "a", epochs=1, pairs_per_step=4), gen)
    single = stylize_model(settings(tmp_path / "b", epochs=1, pairs_per_step=4, batch_size=1), gen)
    a, b = (torch.cat([t.flatten() for _, t in sorted(weights_of(r).items())]) for r in (together, single))
    assert relative_error(b, a) < 1e-3
    assert single.losses == pytest.approx(together.losses, rel=1e-4)


def test_content_weight_keeps_images_nearer_to_what_they_were(gen, settings, tmp_path):
    ends = {}
    for weight in (0.0, 20.0):
        result = stylize_model(settings(tmp_path / str(weight), epochs=8, content_weight=weight), gen)
        ends[weight] = read_jsonl(result.folder / "terms.jsonl")[-1]["content"]
    assert ends[20.0] < 0.6 * ends[0.0]


def test_a_killed_run_resumes_bit_for_bit(gen, settings, tmp_path):
    whole = stylize_model(settings(tmp_path / "a"), gen)

    def die(step, steps, loss):
        if step == 3:
            raise KeyboardInterrupt

    config = settings(tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        stylize_model(config, gen, on_step=die)
    assert load_checkpoint(config.out).step == 2
    steps = []
    resumed = stylize_model(config, gen, on_step=lambda step, *_: steps.append(step))
    assert steps == [3, 4, 5, 6]
    assert same(weights_of(resumed), weights_of(whole))
    assert resumed.losses == whole.losses
    assert resumed.results["sets"] == whole.results["sets"]
    assert (whole.folder / "terms.jsonl").read_bytes() == (resumed.folder / "terms.jsonl").read_bytes()
    for k in (0, 2, 4, 6):
        (a, figures), (b, again) = (
            load_tensors(r.folder / "validation" / f"step-{k:06d}.safetensors") for r in (whole, resumed)
        )
        assert torch.equal(a["images"], b["images"])
        assert figures == again
    again = stylize_model(config, gen, on_step=lambda *a: pytest.fail("a finished run must not optimise"))
    assert same(weights_of(again), weights_of(whole))
    with pytest.raises(InvalidInput, match=r"other settings: content_weight \(was 1.0, now 2.0\)"):
        stylize_model(settings(tmp_path / "b", content_weight=2.0), gen)
    with pytest.raises(InvalidInput, match="model: denoiser"):
        stylize_model(config, differentiable(tiny_pipeline(seed=1)))


def test_another_picture_under_the_same_name_is_another_run(gen, settings, tmp_path):
    file = tmp_path / "style.png"
    for fill in (40, 90):
        picture = Image.new("RGB", (32, 32), (fill, 0, 0))
        picture.paste((0, 200, 0), (0, 0, 16, 32))
        picture.save(file)
        config = settings(tmp_path, style=file, epochs=1, validate_every=0, unseen_prompts=())
        if fill == 40:
            stylize_model(config, gen)
        else:
            with pytest.raises(InvalidInput, match="model: style"):
                stylize_model(config, gen)


def test_early_stopping_keeps_the_best_state(gen, settings, tmp_path):
    config = settings(tmp_path, epochs=40, pairs_per_step=4, lr=2.0, lr_schedule="constant", patience=3)
    result = stylize_model(config, gen)
    assert len(result.losses) < 40
    best = min(result.losses)
    assert result.losses.index(best) == len(result.losses) - 4
    state = load_checkpoint(config.out).state["history"]["best"]
    saved = weights_of(result)
    assert len(saved) == len(state)
    assert all(any(torch.equal(value, found) for found in saved.values()) for value in state.values())


LOSSES = """
import torch
from tests.tasks.stylize.networks import Net
calls = 0
class Later(Net):
    def features(self, image):
        global calls
        calls += image.requires_grad
        found = super().features(image)
        return [f * (float("nan") if calls > 6 else 1.0) for f in found]
def nan_later():
    return Later(0)
class Levels(Net):
    def features(self, image):
        return [(255 * f).round() for f in super().features(image)]
def levels():
    return Levels(0)
class Detached(Net):
    def features(self, image):
        return [f.detach() for f in super().features(image)]
def detached():
    return Detached(0)
"""


def test_features_that_turn_nan_name_the_step_and_keep_the_last_good_state(gen, settings, tmp_path):
    (tmp_path / "losses.py").write_text(LOSSES)
    config = settings(tmp_path, features=f"{tmp_path}/losses.py:nan_later", validate_every=0)
    with pytest.raises(NonFinite, match=r"the loss is nan at step \d.*the state after step \d is saved"):
        stylize_model(config, gen)
    state = load_checkpoint(config.out).state["parameters"]
    assert all(bool(torch.isfinite(p).all()) for p in state.values())
    assert json.loads((config.out / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": "LOSSES:levels"}, NotDifferentiable, "a rounding"),
        ({"features": "LOSSES:absent"}, InvalidInput, "no function 'absent'"),
        ({"features": "vgg"}, InvalidInput, "no feature network 'vgg'"),
        ({"measure": "nobody"}, InvalidInput, "no feature network 'nobody'"),
        (
            {"style_layers": (0, 7)},
            InvalidInput,
            r"style_layers \(--style-layer\): there is no layer 7; .*optimised' gives 3, 0 … 2, or .* -1 … -3",
        ),
        ({"content_layers": (-4,)}, InvalidInput, r"content_layers \(--content-layer\): there is no layer -4"),
        ({"content_features": "LOSSES:detached"}, NotDifferentiable, "layer 0 of content_features .* no gradient"),
        ({"style": "ABSENT"}, InvalidInput, "there is no style image"),
        ({"style": "DOT"}, InvalidInput, "1 x 1 pixels"),
        ({"style_scale": 1e-3}, InvalidInput, r"scaled to 0 pixels .*larger style_scale \(--style-scale\)"),
        ({"style_scale": 1e6}, InvalidInput, "50 megapixels at most: choose a smaller style_scale"),
    ],
)
def test_bad_input_is_refused_after_one_image_and_nothing_is_written(
    gen, settings, tmp_path, monkeypatch, changes, error, message
):
    (tmp_path / "losses.py").write_text(LOSSES)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    places = {"LOSSES": "losses.py", "ABSENT": "absent.png", "DOT": "dot.png"}

    def fill(value):
        for mark, name in places.items():
            value = value.replace(mark, str(tmp_path / name)) if isinstance(value, str) else value
        return value

    painted = []
    monkeypatch.setattr("adjointdpm.tasks.stylize.run.paint_pairs", lambda *a: painted.append(a[2]) or paint_pairs(*a))
    before = fingerprint(gen.pipe)
    config = settings(tmp_path, **{key: fill(value) for key, value in changes.items()})
    with pytest.raises(error, match=message):
        stylize_model(config, gen)
    assert sum(map(len, painted)) <= 1
    assert not config.out.exists()
    assert fingerprint(gen.pipe) == before
    assert not hasattr(gen.pipe.unet, "peft_config")


@pytest.mark.parametrize("weights", ["cross-attention", "all"])
def test_plain_weights_of_a_model_in_half_precision_need_mixed_precision(settings, tmp_path, weights):
    half = differentiable(tiny_pipeline().to(torch.bfloat16))
    config = settings(tmp_path, weights=weights)
    with pytest.raises(InvalidInput, match="does not mix with a pipeline in bfloat16: say --mixed-precision bf16"):
        stylize_model(config, half)
    assert not config.out.exists()


def test_the_tracker_is_closed_whatever_happens(gen, settings, tmp_path, monkeypatch):
    closed = []
    tracker = SimpleNamespace(log=lambda *a: None, close=lambda: closed.append(True))
    monkeypatch.setattr("adjointdpm.tasks.stylize.run.open_tracker", lambda *a: tracker)

    def die(*a):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize_model(settings(tmp_path), gen, on_step=die)
    assert closed == [True]


def test_without_any_network_it_says_what_to_install(gen, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("adjointdpm.tasks.stylize.networks.installed", list)
    with pytest.raises(InvalidInput, match=r"pip install 'adjointdpm\[vgg\]'"):
        stylize_model(settings(tmp_path, features="auto"), gen)


def test_a_folder_in_use_and_a_foreign_generator_are_refused(gen, settings, tmp_path):
    with RunFolder(tmp_path / "run", "stylize", {}), pytest.raises(OutputError, match="in use by process"):
        stylize_model(settings(tmp_path), gen)
    with pytest.raises(InvalidInput, match="expected a generator"):
        stylize_model(settings(tmp_path), gen.pipe)
