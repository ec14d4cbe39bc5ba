"""Guidance end to end on a small random pipeline."""

import html
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import adjointdpm
from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.formats import PromptEmbedding, fingerprint, read_png_text
from adjointdpm.numerics import relative_error
from adjointdpm.pipelines import differentiable
from adjointdpm.pipelines.autoencode import encode
from adjointdpm.runs import OutputError, RunFolder, load_checkpoint, load_tensors, read_jsonl
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.guess import blended, check_blend, guess_of
from adjointdpm.tasks.guide.objective import Objective
from adjointdpm.tasks.guide.objectives import collage
from adjointdpm.tasks.guide.run import guide_images
from adjointdpm.tasks.guide.saliency import Border
from adjointdpm.tasks.guide.start import STRIDE
from adjointdpm.tasks.guide.terms import Seen, build_terms, weigh
from adjointdpm.tasks.painter import Painter
from adjointdpm.tasks.team import Team
from tests.support.tiny_pipeline import tiny_pipeline


@pytest.fixture(scope="module")
def gen():
    return differentiable(tiny_pipeline())


def settings(folder, **changes):
    base = {"out": folder / "run", "prompts": ("red apple",), "seeds": (1, 2), "updates": 4, "steps": 2}
    base |= {"optimise": "noise", "candidates": 1, "blend": (), "lr": 0.05, "embedding_lr": 0.02}
    base |= {"low_resolution": small_picture(folder)} if not set(changes) & set(WISHES) else {}
    return GuideConfig(**base | changes)


WISHES = ("box", "mask", "size", "color", "symmetry", "image", "sketch", "objective", "low_resolution")


def small_picture(folder, name="small.png"):
    values = np.zeros((2, 2, 3), np.uint8)
    values[0] = (200, 60, 60)
    folder.mkdir(exist_ok=True, parents=True)
    Image.fromarray(values).save(folder / name)
    return folder / name


def half_mask(folder, name="mask.png"):
    values = np.zeros((16, 16), np.uint8)
    values[:, :8] = 255
    Image.fromarray(values).save(folder / name)
    return folder / name


def test_it_guides_reports_and_leaves_the_pipeline_alone(gen, tmp_path):
    for parameter in gen.pipe.unet.parameters():
        parameter.requires_grad_(True)  # as from_pretrained leaves them
    before = fingerprint(gen.pipe)
    result = guide_images(settings(tmp_path, updates=12, prompts=("red apple", "blue cat")), gen)
    assert fingerprint(gen.pipe) == before
    assert all(p.requires_grad and p.grad is None for p in gen.pipe.unet.parameters())
    gen.pipe.unet.requires_grad_(False)
    assert len(result.losses) == len(result.grad_norms) == 12
    assert result.losses[-1] < result.losses[0]
    assert result.images.shape == (4, 3, 16, 16)
    for pair in result.readings:
        assert pair["low_resolution"][1] > pair["low_resolution"][0]  # dB
    record = json.loads((result.folder / "run.json").read_text())
    assert record["status"] == "finished"
    cases = record["results"]["cases"]
    assert [(c["prompt"], c["seed"]) for c in cases] == [(p, s) for p in ("red apple", "blue cat") for s in (1, 2)]
    assert all(c["loss"][1] < c["loss"][0] for c in cases)
    assert record["results"]["vjps"] > 0
    page = result.report_path.read_text()
    assert page.count('class="pixels"') == 3 * 4 + 1  # and the small picture
    assert "Likeness to the small image" in page
    for case in cases:
        with Image.open(result.folder / case["image"]) as picture:
            assert picture.size == (16, 16)
        assert read_png_text(result.folder / case["image"]).startswith(case["prompt"])
    assert [row["step"] for row in read_jsonl(result.folder / "log.jsonl")] == list(range(1, 13))


def test_exact_gradients_and_plain_backpropagation_give_the_same_bits(gen, tmp_path):
    exact = guide_images(settings(tmp_path / "a", optimise="both"), gen)
    full = guide_images(settings(tmp_path / "b", optimise="both"), gen.with_(gradient="full"))
    assert torch.equal(exact.noise, full.noise)
    assert torch.equal(exact.images, full.images)


@pytest.mark.parametrize("optimise", ["noise", "embedding"])
def test_the_gradient_is_that_of_the_loss(gen, tmp_path, optimise):
    """A directional finite difference through the whole task, in float64."""
    double = differentiable(tiny_pipeline().to(torch.float64))
    config = settings(tmp_path, optimise=optimise, typicality=0.3)
    painter = Painter(double, config, wrt=("x_T", "cond"))
    terms = build_terms(config, (16, 16), lambda: None)
    objective = Objective(painter, config, Border(), terms, painter.noise([1, 2]), Team())
    (parameter,) = objective.parameters.values()
    assert parameter.dtype == torch.float64
    with torch.no_grad():
        parameter.add_(0.3)  # away from the start, where the penalty on untypical noise begins
    objective.backward(1)
    gradient = parameter.grad.clone()
    direction = gradient / gradient.norm()
    values = []
    for sign in (1, -1):
        moved = {optimise: parameter.detach() + sign * 1e-5 * direction}
        values.append(float(objective.values(moved).sum()))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_an_image_does_not_depend_on_the_others(gen, tmp_path):
    together = guide_images(settings(tmp_path / "a"), gen)
    parts = guide_images(settings(tmp_path / "b", batch_size=1), gen)
    alone = guide_images(settings(tmp_path / "c", seeds=(2,)), gen)
    # over all numbers: where a gradient is almost zero, AdamW turns its rounding into a step
    assert relative_error(parts.noise, together.noise) < 1e-3
    assert relative_error(alone.noise[0], together.noise[1]) < 1e-3
    assert parts.losses == pytest.approx(together.losses, rel=1e-4)


def test_the_noise_stays_on_its_shell_unless_it_may_leave(gen, tmp_path):
    start = Painter(gen, settings(tmp_path)).noise([1, 2])
    kept = guide_images(settings(tmp_path / "a", lr=0.3), gen).noise
    free = guide_images(settings(tmp_path / "b", lr=0.3, shell=False, typicality=0), gen).noise
    lengths = [x.flatten(1).norm(dim=1) for x in (start, kept, free)]
    assert torch.allclose(lengths[1], lengths[0])
    assert not torch.allclose(lengths[2], lengths[0], rtol=1e-3)
    assert relative_error(kept, start) > 0.05


def test_what_is_kept_is_never_worse_than_the_start(gen, tmp_path):
    result = guide_images(settings(tmp_path, lr=5.0, lr_schedule="constant", updates=3), gen)  # jumps about
    assert all(c["loss"][1] <= c["loss"][0] + 1e-6 for c in result.record["results"]["cases"])


def test_candidates_are_tried_and_the_best_is_optimised(gen, tmp_path):
    config = settings(tmp_path, candidates=4, updates=1, lr=1e-6)
    result = guide_images(config, gen)
    painter = Painter(gen, config)
    small = load_tensors(result.folder / "start.safetensors")[0]
    for case, seed in enumerate((1, 2)):
        tried = [seed + k * STRIDE for k in range(4)]
        embeds, negative = painter.encode(["red apple"] * 4)
        images = painter.paint(embeds, negative, tried).image
        terms = build_terms(config, (16, 16), lambda: None)
        from adjointdpm.tasks.guide.terms import Seen, weigh

        losses = weigh(terms, Seen(images, Border()(images), ["red apple"] * 4, range(4)))
        assert int(small["seeds"][case]) == tried[int(losses.argmin())]
    assert result.record["results"]["cases"][0]["start_seed"] == int(small["seeds"][0])
    assert "best of 4" in result.report_path.read_text()


def test_a_killed_run_resumes_bit_for_bit(gen, tmp_path):
    whole = guide_images(settings(tmp_path / "a", checkpoint_every=2, optimise="both"), gen)

    def die(step, updates, loss):
        if step == 3:
            raise KeyboardInterrupt

    config = settings(tmp_path / "b", checkpoint_every=2, optimise="both")
    with pytest.raises(KeyboardInterrupt):
        guide_images(config, gen, on_step=die)
    assert load_checkpoint(config.out).step == 2
    steps = []
    resumed = guide_images(config, gen, on_step=lambda step, *_: steps.append(step))
    assert steps == [3, 4]
    assert torch.equal(resumed.noise, whole.noise)
    assert torch.equal(resumed.images, whole.images)
    assert resumed.losses == whole.losses
    again = guide_images(config, gen, on_step=lambda *a: pytest.fail("a finished run must not optimise"))
    assert torch.equal(again.noise, whole.noise)
    with pytest.raises(InvalidInput, match=r"other settings: updates \(was 4, now 5\)"):
        guide_images(settings(tmp_path / "b", optimise="both", updates=5), gen)
    Image.new("RGB", (2, 2)).save(tmp_path / "b" / "small.png")
    with pytest.raises(InvalidInput, match="low_resolution file"):
        guide_images(config, gen)


def test_the_tracker_is_closed_whatever_happens(gen, tmp_path, monkeypatch):
    closed = []
    tracker = SimpleNamespace(log=lambda *a: None, close=lambda: closed.append(True))
    monkeypatch.setattr("adjointdpm.tasks.guide.run.open_tracker", lambda *a: tracker)

    def die(*a):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guide_images(settings(tmp_path), gen, on_step=die)
    assert closed == [True]


def test_early_stopping(gen, tmp_path):
    result = guide_images(settings(tmp_path, updates=50, patience=2, lr=1e-12, lr_schedule="constant"), gen)
    assert len(result.losses) == 3  # nothing changes, so the second and third are no better


@pytest.mark.parametrize("optimise", ["noise", "embedding", "both"])
def test_the_saved_files_give_the_image_in_plain_diffusers(gen, tmp_path, optimise):
    result = guide_images(settings(tmp_path, optimise=optimise, embedding_lr=0.2), gen)
    case = result.record["results"]["cases"][1]
    latents = load_tensors(result.folder / case["noise_file"])[0]["latents"]
    pipe = tiny_pipeline()
    arguments = {"prompt": "red apple"}
    if optimise != "noise":
        file = result.folder / case["noise_file"].replace(".noise.", ".embedding.")
        learnt = PromptEmbedding.load(file)
        assert (learnt.position, tuple(learnt.rows.shape)) == ("fill", (16 - 4, 32))  # start, two words, end
        arguments = {"prompt_embeds": learnt.apply(pipe, "red apple")}
    image = pipe(**arguments, latents=latents, num_inference_steps=2, guidance_scale=3.0, output_type="pt").images
    assert float((image[0] - result.images[1]).abs().max()) < 1e-5
    with Image.open(result.folder / case["image"]) as saved:
        wanted = (image[0].permute(1, 2, 0) * 255).round()
        assert float((torch.from_numpy(np.asarray(saved).copy()) - wanted).abs().max()) <= 1
    if optimise == "embedding":
        start = Painter(gen, settings(tmp_path)).noise([1, 2])
        assert torch.equal(result.noise, start)


def test_every_wish_at_once(gen, tmp_path):
    small_picture(tmp_path)
    Image.new("RGB", (16, 16), (40, 80, 120)).save(tmp_path / "reference.png")
    sketch = np.full((16, 16), 255, np.uint8)
    sketch[4] = 0
    Image.fromarray(sketch).convert("RGB").save(tmp_path / "sketch.png")
    (tmp_path / "own.py").write_text(
        "def dark(images, prompts):\n    return images.mean(dim=(1, 2, 3)) + len(prompts)\n"
    )
    config = settings(
        tmp_path,
        mask=half_mask(tmp_path),
        size=0.3,
        color="red",
        symmetry="left-right",
        image=tmp_path / "reference.png",
        keep=half_mask(tmp_path, "keep.png"),
        sketch=tmp_path / "sketch.png",
        low_resolution=tmp_path / "small.png",
        objective=f"{tmp_path}/own.py:dark",
        updates=2,
    )
    result = guide_images(config, gen)
    names = {"mask", "collage", "size", "color", "symmetry", "image", "sketch", "low_resolution", "objective"}
    assert set(result.readings[0]) == names
    page = result.report_path.read_text()
    assert page.count('class="pixels"') == 3 * 2 + 5  # a mask, an image and what is kept of it, a sketch, a small one
    assert "the object in the mask, the object on 30 % of the picture" in page
    for text in (
        "What was given.",
        "what is kept of it",
        "wanted: 30 %",
        "overlap of the object with the mask".capitalize(),
        "what is kept".capitalize(),
    ):
        assert text in page


def test_the_report_has_the_call_that_repeats_the_run(gen, tmp_path):
    config = settings(tmp_path, box=(0, 0, 8, 8.5), weights={"box": 2.5}, shell=False, updates=1)
    page = html.unescape(guide_images(config, gen).report_path.read_text())
    arguments = re.search(r"adjointdpm\.tasks\.guide_images(\(.*\))", page)[1]
    same, _ = eval(arguments, {"adjointdpm": adjointdpm, "generator": gen})
    assert same == config.model_copy(update={"out": tmp_path / "run-again"})


OWN = """
import torch
calls = 0
def nan_later(images):
    global calls
    calls += 1
    loss = images.square().mean(dim=(1, 2, 3))
    return loss * (float("nan") if calls > 4 else 1.0)  # one call is the trial before the run
def levels(images): return (255 * images).round().mean(dim=(1, 2, 3))
def constant(images): return 0 * images.sum(dim=(1, 2, 3)) + 1
def each(images): return images.square()
def three(a, b, c): return a
"""


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"objective": "OWN:levels"}, NotDifferentiable, "'objective'.*zero: a constant, a rounding"),
        ({"objective": "OWN:constant"}, NotDifferentiable, "'objective'.*is zero"),
        ({"objective": "OWN:each"}, InvalidInput, r"returned \(1, 3, 16, 16\); expected \(1,\)"),
        ({"objective": "OWN:three"}, InvalidInput, "takes 3 arguments"),
        ({"objective": "OWN:absent"}, InvalidInput, "has no function 'absent'"),
        ({"objective": "colourful"}, InvalidInput, "no objective 'colourful'"),
        ({"box": (0, 0, 8, 20)}, InvalidInput, "reaches out of the image of 16 x 16"),
        ({"mask": "ABSENT"}, InvalidInput, r"absent\.png cannot be read"),
        ({"symmetry": "both", "saliency": "edges"}, InvalidInput, "no saliency 'edges'"),
        ({"image": "ABSENT", "keep_box": (0, 0, 8, 8)}, InvalidInput, r"reference image .*absent\.png cannot be read"),
        ({"image": "SMALL", "keep_box": (0, 0, 8, 8)}, InvalidInput, r"is 2 x 2, the model's image 16 x 16"),
        ({"image": "FITS", "keep_box": (0, 0, 16, 16)}, InvalidInput, "keep_box is the whole image"),
        ({"recogniser": "embedded", "prompts": ("a sunset",), "size": 0.3}, InvalidInput, "knows no object"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(gen, tmp_path, changes, error, message):
    (tmp_path / "own.py").write_text(OWN)
    small_picture(tmp_path)
    Image.new("RGB", (16, 16)).save(tmp_path / "fits.png")
    places = {"OWN": "own.py", "ABSENT": "absent.png", "SMALL": "small.png", "FITS": "fits.png"}

    def fill(value):
        for mark, name in places.items():
            value = value.replace(mark, str(tmp_path / name)) if isinstance(value, str) else value
        return value

    config = settings(tmp_path, **{key: fill(value) for key, value in changes.items()})
    with pytest.raises(error, match=message):
        guide_images(config, gen)
    assert not config.out.exists()


def test_a_loss_that_turns_nan_names_the_step_and_keeps_the_last_good_state(gen, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    config = settings(tmp_path, objective=f"{tmp_path}/own.py:nan_later")
    with pytest.raises(NonFinite, match=r"the loss is nan at step \d.*is saved"):
        guide_images(config, gen)
    assert json.loads((config.out / "run.json").read_text())["status"] == "failed"
    assert bool(torch.isfinite(load_checkpoint(config.out).state["parameters"]["noise"]).all())


def test_a_prompt_without_free_rows_has_no_embedding_to_optimise(gen, tmp_path):
    with pytest.raises(InvalidInput, match="takes all 16 rows"):
        guide_images(settings(tmp_path, prompts=("apple " * 20,), optimise="embedding"), gen)


def test_a_folder_in_use_and_a_foreign_generator_are_refused(gen, tmp_path):
    with RunFolder(tmp_path / "run", "guide", {}), pytest.raises(OutputError, match="in use by process"):
        guide_images(settings(tmp_path), gen)
    with pytest.raises(InvalidInput, match="expected a generator"):
        guide_images(settings(tmp_path), gen.pipe)


def test_candidates_take_turns_with_phrases_and_the_chosen_wording_is_what_is_saved(gen, tmp_path):
    phrases = ("a {prompt} there", "green {prompt}")
    config = settings(tmp_path, candidates=6, phrases=phrases, move_noise=False, updates=1, lr=1e-9)
    assert [config.wording("red apple", k) for k in range(4)] == [
        "red apple", "a red apple there", "green red apple", "red apple"
    ]  # fmt: skip
    result = guide_images(config, gen)
    painter = Painter(gen, config)
    for case in result.record["results"]["cases"]:
        number = (case["start_seed"] - case["seed"]) // STRIDE
        assert case["wording"] == config.wording("red apple", number)
        made = painter.paint(*painter.encode([case["wording"]]), [case["start_seed"]]).image
        index = result.record["results"]["cases"].index(case)
        assert torch.allclose(made[0], result.images[index], atol=1e-5)
        assert read_png_text(result.folder / case["image"]).startswith(case["wording"])
    assert any(case["wording"] != "red apple" for case in result.record["results"]["cases"])
    assert "'green {prompt}'" in html.unescape(result.report_path.read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phrases": ("at left",), "candidates": 3}, "does not hold {prompt}"),
        ({"phrases": ("{prompt} at left",), "candidates": 1}, r"candidates`? is 1: expected at least 2"),
    ],
)
def test_phrases_that_cannot_be_tried_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **changes)


def test_several_starts_are_optimised_and_the_best_result_of_each_case_is_kept(gen, tmp_path):
    common = {"candidates": 3, "prompts": ("red apple", "blue cat"), "updates": 3, "lr": 0.2, "weights": {"box": 1.0}}
    common |= {"box": (0, 0, 8, 8), "move_noise": False, "typicality": 0.0}
    alone = [guide_images(settings(tmp_path / "one", **common), gen)]
    both = guide_images(settings(tmp_path / "two", starts=3, **common), gen)
    for k, (seed, _) in enumerate([(1, 0), (2, 0), (1, 0), (2, 0)]):
        case = both.record["results"]["cases"][k]
        assert case["start_seed"] in {seed, seed + STRIDE, seed + 2 * STRIDE}
        single = alone[0].record["results"]["cases"][k]
        if case["start_seed"] == single["start_seed"]:  # the same start goes the same way beside others
            assert relative_error(both.images[k], alone[0].images[k]) < 1e-5
        else:
            assert case["loss"][1] < single["loss"][1]
    assert "the best 3 of 3 noises, side by side" in both.report_path.read_text()
    assert both.losses[0] > alone[0].losses[0]  # sums over three times as many
    again = guide_images(settings(tmp_path / "two", starts=3, **common), gen)  # finished: drawn again
    assert torch.equal(again.images, both.images)
    for kind in ("network_calls", "recomputations", "vjps"):
        assert again.record["results"][kind] == both.record["results"][kind] > 0
    with pytest.raises(ValueError, match=r"starts`? is 4: expected at most the number of candidates, 3"):
        settings(tmp_path, **common | {"starts": 4})


def test_a_guess_is_blended_into_the_noise_at_its_length(gen, tmp_path):
    config = settings(tmp_path, box=(0, 0, 8, 8), blend=(0.5, 2.0), move_noise=False, updates=1, lr=1e-9)
    result = guide_images(config, gen)
    painter, start = Painter(gen, config), load_tensors(result.folder / "start.safetensors")[0]
    drawn, plain = painter.noise((1, 2)), start["plain.image"]
    latents = guess_of(config, painter, Border(), (16, 16))(plain)
    pasted, _ = collage(plain, Border()(plain), Border().background(plain), config.box)
    assert torch.allclose(latents, encode(gen.pipe, pasted.clamp(0, 1)), atol=1e-5)
    for case, amount in enumerate(start["blends"].tolist()):
        noise = start["noise"][case]
        assert float(noise.norm()) == pytest.approx(float(drawn[case].norm()), rel=1e-5)
        wanted = drawn[case] + amount * latents[case]
        assert torch.allclose(noise, wanted * drawn[case].norm() / wanted.norm(), atol=1e-5)
        assert result.record["results"]["cases"][case]["blended"] == amount
    losses = {}
    for amount in (0.0, 0.5, 2.0):
        made = painter.paint(*painter.encode(["red apple"] * 2), blended(drawn, latents, amount)).image
        terms = build_terms(config, (16, 16), lambda: None)
        losses[amount] = weigh(terms, Seen(made, Border()(made), ["red apple"] * 2, range(2)))
    best = torch.stack(list(losses.values())).argmin(dim=0)
    assert start["blends"].tolist() == [list(losses)[i] for i in best.tolist()]


def test_a_guess_lays_the_kept_part_over_and_enlarges_the_small_picture(gen, tmp_path):
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "reference.png")
    config = settings(tmp_path, image=tmp_path / "reference.png", keep_box=(0, 0, 16, 4), blend=(1.0,))
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = guess_of(config, Painter(gen, config), Border(), (16, 16))(picture)
    picture[:, :, :4] = 90 / 255
    assert torch.allclose(seen, encode(gen.pipe, picture), atol=1e-5)
    config = settings(tmp_path, low_resolution=small_picture(tmp_path), blend=(1.0,))
    latents = guess_of(config, Painter(gen, config), Border(), (16, 16))(picture)
    assert torch.equal(latents, guess_of(config, Painter(gen, config), Border(), (16, 16))(1 - picture))
    with pytest.raises(InvalidInput, match="blend needs a wish that says what the picture looks like"):
        check_blend(settings(tmp_path, symmetry="both", blend=(0.5,)), Painter(gen, config), (16, 16))
