"""Inversion end to end on a small random pipeline."""

import html
import json
import re
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from PIL import Image

from adjointdpm.errors import InputWarning, InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.formats import PromptEmbedding, TextualInversion, fingerprint
from adjointdpm.numerics import relative_error
from adjointdpm.pipelines import differentiable
from adjointdpm.runs import OutputError, RunFolder, load_checkpoint, read_jsonl
from adjointdpm.tasks import InvertConfig, invert
from adjointdpm.tasks.inversion.painter import Painter
from adjointdpm.tasks.inversion.spaces import PromptSpace
from adjointdpm.tasks.inversion.token_space import TokenSpace
from tests.support.tiny_pipeline import tiny_pipeline


@pytest.fixture(scope="module")
def gen():
    return differentiable(tiny_pipeline())


def settings(folder, **changes):
    base = {
        "out": folder / "run",
        "prompts": ("red apple", "blue cat"),
        "seeds": (1, 2),
        "effect": "sepia",
        "epochs": 4,
        "steps": 2,
        "unseen_prompts": (),
        "unseen_seeds": (9,),
    }
    return InvertConfig(**base | changes)


def test_it_learns_reports_and_leaves_the_pipeline_alone(gen, tmp_path):
    for parameter in gen.pipe.unet.parameters():
        parameter.requires_grad_(True)  # as from_pretrained leaves them
    before = fingerprint(gen.pipe)
    result = invert(settings(tmp_path, epochs=8, unseen_prompts=("dog",)), gen)
    assert fingerprint(gen.pipe) == before
    assert all(p.requires_grad and p.grad is None for p in gen.pipe.unet.parameters())
    gen.pipe.unet.requires_grad_(False)
    assert len(result.losses) == len(result.grad_norms) == 8
    assert result.losses[-1] < result.losses[0]
    embedding = PromptEmbedding.load(result.embedding_path)
    assert embedding.rows.shape == (8, 32)
    assert embedding.provenance["base_model"] == before
    assert embedding.provenance["settings"]["effect"] == "sepia"
    record = json.loads((result.folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["results"]["gap_closed_seen"] == result.seen_gap_closed > 0
    page = result.report_path.read_text()
    assert "“sepia” as a text embedding" in page
    assert page.count('class="pixels"') == 3 * 2 + 3 * 1
    assert "prompt_embeds=text" in page
    for name in ("seen.png", "unseen.png"):
        with Image.open(result.folder / name) as sheet:
            assert sheet.width > 100
    assert [row["step"] for row in read_jsonl(result.folder / "log.jsonl")] == list(range(1, 9))


@pytest.mark.parametrize("changes", [{}, {"variant": "fill"}, {"space": "token", "token": "<u>"}])
def test_the_lines_in_the_report_work_in_plain_diffusers(gen, tmp_path, changes):
    from adjointdpm.tasks.inversion.outcome import usage
    from adjointdpm.tasks.usage import drawing

    result = invert(settings(tmp_path, epochs=1, **changes), gen)
    lines = usage(result.embedding, result.embedding_path, partial(drawing, gen, settings(tmp_path)))
    assert all(line in html.unescape(result.report_path.read_text()) for line in lines.splitlines())
    space = {"pipe": tiny_pipeline()}
    exec(lines, space)
    assert space["image"].size == (16, 16)


def test_exact_gradients_and_plain_backpropagation_learn_the_same_bits(gen, tmp_path):
    exact = invert(settings(tmp_path / "a", epochs=2), gen)
    full = invert(settings(tmp_path / "b", epochs=2), gen.with_(gradient="full"))
    assert torch.equal(exact.embedding.rows, full.embedding.rows)


def test_the_gradient_is_that_of_the_loss(gen, tmp_path):
    """A directional finite difference through the whole task: rows -> images -> loss."""
    from adjointdpm.losses import mse
    from adjointdpm.tasks.inversion.objective import Objective

    config = settings(tmp_path)
    painter = Painter(gen, config)
    space = PromptSpace(painter, config)
    target = painter.paint(*painter.encode(["green dog", "star"]), [5, 6])
    objective = Objective(painter, space, mse, target)
    objective.backward(1)
    direction = space.parameter.grad / space.parameter.grad.norm()
    slope = float((direction * space.parameter.grad).sum())
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            space.parameter.add_(sign * 0.5 * direction)
        values.append(objective.value())
        with torch.no_grad():
            space.parameter.sub_(sign * 0.5 * direction)
    assert (values[0] - values[1]) / 1.0 == pytest.approx(slope, rel=0.05)


def test_pairs_one_at_a_time_give_the_same_embedding(gen, tmp_path):
    together = invert(settings(tmp_path / "a"), gen)
    single = invert(settings(tmp_path / "b", batch_size=1), gen)
    # over all numbers: where a gradient is almost zero, AdamW turns its rounding into a step
    assert relative_error(single.embedding.rows, together.embedding.rows) < 1e-3
    assert single.losses == pytest.approx(together.losses, rel=1e-4)


def test_pairs_take_turns(gen, tmp_path):
    from adjointdpm.losses import mse
    from adjointdpm.tasks.inversion.objective import Objective

    config = settings(tmp_path, prompts=("red apple", "blue cat", "star"), seeds=(1, 2, 3), pairs_per_step=2)
    painter = Painter(gen, config)
    objective = Objective(
        painter, PromptSpace(painter, config), mse, painter.paint(*painter.encode(["a"] * 3), [1] * 3)
    )
    turns = [objective.turn(step) for step in range(1, 7)]
    assert all(len(turn) == 2 for turn in turns)
    assert sorted(i for turn in turns[:3] for i in turn) == [0, 0, 1, 1, 2, 2]  # two rounds in three steps
    assert objective.turn(2) == turns[1]  # depends on the step alone, so a resumed run goes on as it would have
    losses = [objective.backward(step) for step in (1, 2, 3)]
    assert sum(losses) / 3 == pytest.approx(objective.value(), rel=1e-5)


def test_a_run_of_few_pairs_a_step_ends_with_its_last_state(gen, tmp_path):
    result = invert(settings(tmp_path, pairs_per_step=1, epochs=6), gen)
    assert len(result.losses) == 6
    again = invert(settings(tmp_path / "again", pairs_per_step=1, epochs=6), gen)
    assert torch.equal(result.embedding.rows, again.embedding.rows)


def test_a_killed_run_resumes_bit_for_bit(gen, tmp_path):
    whole = invert(settings(tmp_path / "a", checkpoint_every=2), gen)

    def die(step, epochs, loss):
        if step == 3:
            raise KeyboardInterrupt

    config = settings(tmp_path / "b", checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        invert(config, gen, on_step=die)
    assert load_checkpoint(config.out).step == 2
    steps = []
    resumed = invert(config, gen, on_step=lambda step, epochs, loss: steps.append(step))
    assert steps == [3, 4]
    assert torch.equal(resumed.embedding.rows, whole.embedding.rows)
    assert resumed.losses == whole.losses
    again = invert(config, gen, on_step=lambda *a: pytest.fail("a finished run must not optimise"))
    assert torch.equal(again.embedding.rows, whole.embedding.rows)
    with pytest.raises(InvalidInput, match=r"other settings: epochs \(was 4, now 5\)"):
        invert(settings(tmp_path / "b", checkpoint_every=2, epochs=5), gen)
    other = differentiable(tiny_pipeline(seed=1))
    with pytest.raises(InvalidInput, match="model: denoiser"):
        invert(config, other)


PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks import InvertConfig, invert
from tests.support.tiny_pipeline import tiny_pipeline
config = InvertConfig(out=sys.argv[1], prompts=("cat",), effect="sepia", epochs=5000, steps=2, checkpoint_every=4000)
invert(config, differentiable(tiny_pipeline()), on_step=lambda step, *_: print(step, flush=True))
"""


def test_sigterm_saves_and_exits_with_143(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    last = int((["1", *output.split()])[-1])
    assert load_checkpoint(tmp_path / "run").step == last
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"


def test_the_papers_variant_keeps_every_prompts_words(gen, tmp_path):
    result = invert(settings(tmp_path, variant="fill", prompts=("apple", "red cat"), epochs=1), gen)
    assert result.embedding.position == "fill"
    assert result.embedding.rows.shape == (16 - 3, 32)  # start, one word, end
    with pytest.raises(InvalidInput, match="take all 16 rows"):
        invert(settings(tmp_path / "x", variant="fill", prompts=("apple " * 20,), seeds=(1,)), gen)


def test_token_space_matches_plain_diffusers_and_touches_nothing(gen, tmp_path):
    pipe = gen.pipe
    size, table = len(pipe.tokenizer), pipe.text_encoder.get_input_embeddings().weight.clone()
    config = settings(tmp_path, space="token", vectors=2, token="<tone>", init_word="red", epochs=2)
    result = invert(config, gen)
    assert isinstance(result.embedding, TextualInversion)
    assert len(pipe.tokenizer) == size
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight, table)
    assert not pipe.text_encoder.get_input_embeddings()._forward_hooks
    assert "load_textual_inversion" in result.report_path.read_text()

    painter = Painter(gen, config)
    space = TokenSpace(painter, config)
    with torch.no_grad():
        space.parameter.copy_(result.embedding.vectors)
        ours = space.encode(["blue cat", "small <tone>, apple"])
    plain = tiny_pipeline()
    plain.load_textual_inversion(str(result.embedding_path))
    theirs, _ = plain.encode_prompt(["blue cat <tone>", "small <tone>, apple"], "cpu", 1, False)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_token_space_gradient(gen, tmp_path):
    config = settings(tmp_path, space="token", vectors=2)
    space = TokenSpace(Painter(gen, config), config)
    weights = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
    (space.encode(["cat"]) * weights).sum().backward()
    gradient, step = space.parameter.grad.clone(), 1e-2
    with torch.no_grad():
        direction = gradient / gradient.norm()
        space.parameter.add_(step * direction)
        up = (space.encode(["cat"]) * weights).sum()
        space.parameter.sub_(2 * step * direction)
        down = (space.encode(["cat"]) * weights).sum()
    assert float(up - down) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_token_space_refusals(gen, tmp_path):
    with pytest.raises(InvalidInput, match="'apple' is already in the tokenizer"):
        invert(settings(tmp_path, space="token", token="apple"), gen)
    with pytest.raises(InvalidInput, match="too long: with 9 vectors"):
        invert(settings(tmp_path, space="token", vectors=9, prompts=("cat " * 8,)), gen)
    with pytest.raises(InvalidInput, match="init_word 'nonsenseword'"):
        invert(settings(tmp_path, space="token", init_word="nonsenseword"), gen)


def test_words_as_target(gen, tmp_path):
    result = invert(
        settings(tmp_path, effect=None, target_words="sepia {prompt}", epochs=1, unseen_prompts=("dog",)), gen
    )
    assert result.unseen_gap_closed is not None
    seen = Painter(gen, settings(tmp_path))
    wanted = seen.paint(*seen.encode(["sepia red apple", "sepia blue cat"]), [1, 2])
    from adjointdpm.runs import load_tensors

    assert torch.equal(load_tensors(result.folder / "pairs.safetensors")[0]["target.image"], wanted.image)


def test_a_users_edited_image(gen, tmp_path):
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "edit.png")
    config = settings(tmp_path, effect=None, target_images=(tmp_path / "edit.png",), prompts=("cat",), seeds=(3,))
    config = config.model_copy(update={"unseen_prompts": ("dog",)})
    with pytest.warns(InputWarning) as caught:
        result = invert(config, gen)
    messages = " ".join(str(w.message) for w in caught)
    assert re.search(r"mode RGBA; converted to RGB, transparency on white", messages)
    assert re.search(r"40 x 40; resampled to the model's 16 x 16", messages)
    assert result.unseen_gap_closed is None
    assert "true effect" not in result.report_path.read_text().split("The training pairs")[0]


def test_a_users_own_effect_with_options(gen, tmp_path):
    (tmp_path / "mine.py").write_text("def dim(x, by=0.5):\n    return x * by\n\ndef bad(x):\n    return x[:, :1]\n")
    result = invert(settings(tmp_path, effect=f"{tmp_path}/mine.py:dim", effect_options={"by": 0.2}, epochs=1), gen)
    assert "“dim” as a text embedding" in result.report_path.read_text()
    with pytest.raises(InvalidInput, match=r"returned \(2, 1, 16, 16\); expected shape \(2, 3, 16, 16\)"):
        invert(settings(tmp_path / "x", effect=f"{tmp_path}/mine.py:bad"), gen)
    with pytest.raises(InvalidInput, match=r"with \{'strenght': 1\} fails: TypeError.*'strenght'"):
        invert(settings(tmp_path / "x", effect_options={"strenght": 1}), gen)


LOSSES = """
import torch
calls = 0
def nan_later(image, target):
    global calls
    calls += 1
    loss = (image - target).square().mean()
    return loss * (float("nan") if calls > 3 else 1.0)  # one call is the trial before the run
def levels(image, target):
    return (255 * image).round().mean()
def each(image, target):
    return (image - target).square()
"""


def test_a_loss_that_turns_nan_names_the_step_and_keeps_the_last_good_state(gen, tmp_path):
    (tmp_path / "losses.py").write_text(LOSSES)
    config = settings(tmp_path, loss=f"{tmp_path}/losses.py:nan_later")
    with pytest.raises(NonFinite, match=r"the loss is nan at step 3.*the state after step 2 is saved"):
        invert(config, gen)
    assert load_checkpoint(config.out).step == 2
    assert bool(torch.isfinite(load_checkpoint(config.out).state["parameters"]["embedding"]).all())
    assert json.loads((config.out / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": "LOSSES:levels"}, NotDifferentiable, "a rounding"),
        ({"loss": "LOSSES:each"}, InvalidInput, "expected a scalar"),
        ({"loss": "l2"}, InvalidInput, "no loss 'l2'"),
        ({"effect": "sepa"}, InvalidInput, "no effect 'sepa'; did you mean 'sepia'"),
        ({"rows": 16}, InvalidInput, "16 learnt rows do not fit"),
        ({"effect": None, "target_images": ("ABSENT", "ABSENT")}, InvalidInput, r"absent\.png cannot be read"),
        ({"effect": None, "target_images": ("TEXT", "TEXT")}, InvalidInput, r"text\.png cannot be read"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(gen, tmp_path, changes, error, message):
    (tmp_path / "losses.py").write_text(LOSSES)
    (tmp_path / "text.png").write_text("no picture")
    places = {"LOSSES": "losses.py", "ABSENT": "absent.png", "TEXT": "text.png"}

    def fill(value):
        if isinstance(value, tuple):
            return tuple(fill(part) for part in value)
        for mark, name in places.items():
            value = value.replace(mark, str(tmp_path / name)) if isinstance(value, str) else value
        return value

    config = settings(tmp_path, **{key: fill(value) for key, value in changes.items()})
    with pytest.raises(error, match=message):
        invert(config, gen)
    assert not config.out.exists()


def test_prompts_that_reach_into_the_rows_are_warned_about(gen, tmp_path):
    with pytest.warns(InputWarning, match="loses 'blue stripes' to the 10 learnt rows"):
        invert(
            settings(tmp_path, rows=10, prompts=("small flat red apple on blue stripes",), seeds=(1,), epochs=1), gen
        )


def test_a_folder_in_use_and_a_foreign_generator_are_refused(gen, tmp_path):
    with RunFolder(tmp_path / "run", "invert", {}), pytest.raises(OutputError, match="in use by process"):
        invert(settings(tmp_path), gen)
    with pytest.raises(InvalidInput, match="expected a generator"):
        invert(settings(tmp_path), gen.pipe)
