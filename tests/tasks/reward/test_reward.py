"""Reward maximisation end to end on a small random pipeline."""

import html
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.formats import fingerprint
from adjointdpm.losses.rewards import chroma, colourfulness
from adjointdpm.numerics import relative_error
from adjointdpm.pipelines import differentiable
from adjointdpm.runs import load_checkpoint, load_tensors, read_jsonl
from adjointdpm.tasks import RewardConfig, maximise_reward
from adjointdpm.tasks.reward.config import Item
from adjointdpm.tasks.reward.objective import Objective
from adjointdpm.tasks.reward.road import generator_for
from adjointdpm.tasks.reward.scores import Rewards
from adjointdpm.tasks.reward.subjects import subject_of
from tests.support.tiny_pipeline import tiny_pipeline

KINDS = ("noise", "embedding", "weights")


@pytest.fixture(scope="module")
def gen():
    return differentiable(tiny_pipeline())


def unsaturated(dtype=torch.float32):
    """A pipeline whose pixels keep away from 0 and 1, where the clamp has another gradient than its derivative."""
    pipe = tiny_pipeline()
    last = pipe.vae.decoder.layers[-1]
    last.weight.data.mul_(0.3)
    last.bias.data.add_(0.5)
    return differentiable(pipe.to(dtype))


def settings(folder, **changes):
    base = {
        "out": folder / "run",
        "prompts": ("red apple", "blue cat"),
        "seeds": (1,),
        "steps": 2,
        "epochs": 4,
        "unseen_prompts": ("dog",),
        "unseen_seeds": (9,),
        "held_out": "chroma",
    }
    return RewardConfig(**base | changes)


def gradient_of(gen, config, step=1):
    """Gradient of one step by parameter, and its loss."""
    with subject_of(generator_for(gen, config), config) as (subject, painter):
        objective = Objective(config, painter, subject, Rewards.of(config, embedded=False))
        loss = objective.backward(step)
        return {name: p.grad.clone() for name, p in subject.parameters.items()}, loss


def joined(tensors):
    return torch.cat([t.double().flatten() for _, t in sorted(tensors.items())])


@pytest.mark.parametrize("kind", KINDS)
def test_the_reward_rises_and_the_pipeline_is_left_alone(gen, tmp_path, kind):
    before, modules = fingerprint(gen.pipe), dict(gen.pipe.unet.named_modules())
    result = maximise_reward(settings(tmp_path, optimise=kind, epochs=10, lr=0.02, noises="fixed"), gen)
    assert fingerprint(gen.pipe) == before
    assert dict(gen.pipe.unet.named_modules()) == modules
    assert not any(p.requires_grad for p in gen.pipe.unet.parameters())
    assert len(result.losses) == 10
    assert result.losses[-1] < result.losses[0]
    seen = result.results["seen"]["colourfulness"]
    assert seen["after"] > seen["before"]
    assert seen["images"] == 2
    assert (result.results["unseen"] is None) == (kind == "noise")
    record = json.loads((result.folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["results"]["verdict"] == result.verdict
    page = result.report_path.read_text()
    assert "Optimised for colourfulness" in page
    assert page.count('class="pixels"') == 2 * (2 if kind == "noise" else 3)
    assert "held out: chroma" in page
    assert "maximise_reward" in page
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)
    again = RewardConfig.model_validate_json(html.unescape(blocks[-1]).replace("{", f'{{"out": "{result.folder}",', 1))
    assert again == settings(tmp_path, optimise=kind, epochs=10, lr=0.02, noises="fixed")
    with Image.open(result.folder / "before_after.png") as sheet:
        assert sheet.width > 50
    rows = read_jsonl(result.folder / "log.jsonl")
    curve = {row["step"]: row["rewards"] for row in rows if "rewards" in row}
    assert sorted(curve) == list(range(1, 11))
    penalty = curve[1].get("penalty", 0.0)
    assert result.losses[0] == pytest.approx(penalty - curve[1]["reward"], rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimise": "noise"},
        {"optimise": "weights"},
        {"optimise": "weights", "train": "all"},
        {"optimise": "embedding"},
        {"optimise": "embedding", "space": "token"},
    ],
    ids=lambda changes: " ".join(changes.values()),
)
def test_what_was_learnt_gives_the_same_image_in_plain_diffusers(gen, tmp_path, changes):
    result = maximise_reward(settings(tmp_path, prompts=("red apple",), epochs=3, lr=0.05, **changes), gen)
    page = html.unescape(result.report_path.read_text())
    code = re.search(r"# pipe: a diffusers pipeline of this model\n(.*?)</", page, re.DOTALL)[1]
    if changes["optimise"] != "noise":
        code = code.replace("num_inference_steps", "latents=noise, num_inference_steps")
    space = {"pipe": tiny_pipeline(), "noise": gen.prepare_latents(1, 1)}
    exec(code, space)
    theirs = torch.from_numpy(np.array(space["image"])).long()
    assert (theirs - painted_after(gen, result, changes)).abs().max() <= 1
    assert (theirs - painted_before(gen)).abs().float().mean() > 0.05  # it did change


def test_the_lines_in_the_report_draw_with_the_runs_own_sampler(tmp_path):
    gen = differentiable(tiny_pipeline(), solver="ab2", spacing="karras", form="raw")
    config = settings(tmp_path, prompts=("red apple",), epochs=2, negative_prompt="it's blue")
    result = maximise_reward(config, gen)
    page = html.unescape(result.report_path.read_text())
    code = re.search(r"# pipe: a diffusers pipeline of this model\n(.*?)</", page, re.DOTALL)[1]
    space = {"pipe": tiny_pipeline()}
    exec(code, space)
    theirs = torch.from_numpy(np.array(space["image"])).long()
    with torch.no_grad():
        call = {"negative_prompt": "it's blue", "num_inference_steps": 2, "guidance_scale": 3.0}
        ours = gen("red apple", latents=space["noise"], **call).image
    assert (theirs - (255 * ours[0]).round().permute(1, 2, 0).long()).abs().max() <= 1
    plain = space["pipe"]("red apple", latents=space["noise"], **call).images[0]
    assert (theirs - torch.from_numpy(np.array(plain)).long()).abs().max() > 1  # another sampler, another picture


def painted_before(gen):
    with torch.no_grad():
        image = gen("red apple", seed=1, num_inference_steps=2, guidance_scale=3.0).image
    return (255 * image[0]).round().permute(1, 2, 0).long()


def painted_after(gen, result, changes):
    """The image of the run's own parameters, from its last checkpoint."""
    config = settings(result.folder.parent, prompts=("red apple",), epochs=3, lr=0.05, **changes)
    with subject_of(generator_for(gen, config), config) as (subject, painter):
        state = load_checkpoint(result.folder).state["parameters"]
        with torch.no_grad():
            for name, parameter in subject.parameters.items():
                parameter.copy_(state[name])
        objective = Objective(config, painter, subject, Rewards.of(config, embedded=False))
        image = objective.paint([Item(0, "red apple", 1)])[0].image
    return (255 * image[0]).round().permute(1, 2, 0).long()


@pytest.mark.parametrize("kind", KINDS)
def test_exact_gradients_and_plain_backpropagation_agree_to_the_bit(gen, tmp_path, kind):
    exact, loss = gradient_of(gen, settings(tmp_path, optimise=kind, gradient="exact"))
    full, same = gradient_of(gen, settings(tmp_path, optimise=kind, gradient="full"))
    assert loss == same
    assert torch.equal(joined(exact), joined(full))
    assert float(joined(exact).norm()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_reward(tmp_path, kind):
    """A directional finite difference through the whole task: parameters -> images -> scores, in float64."""
    gen = unsaturated(torch.float64)
    config = settings(tmp_path, optimise=kind, rewards=("colourfulness", "-0.3*jpeg", "2*sharpness"))
    with subject_of(gen, config) as (subject, painter):
        objective = Objective(config, painter, subject, Rewards.of(config, embedded=False))
        objective.backward(1)
        gradient = {name: p.grad.clone() for name, p in subject.parameters.items()}
        norm = float(joined(gradient).norm())
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for name, p in subject.parameters.items():
                    p.add_(sign * 1e-5 / norm * gradient[name])
            values.append(objective.backward(1))
            with torch.no_grad():
                for name, p in subject.parameters.items():
                    p.sub_(sign * 1e-5 / norm * gradient[name])
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_images_one_at_a_time_give_the_same_gradient(gen, tmp_path, kind):
    together, loss = gradient_of(gen, settings(tmp_path, optimise=kind))
    single, same = gradient_of(gen, settings(tmp_path, optimise=kind, batch_size=1))
    assert same == pytest.approx(loss, rel=1e-5)
    assert relative_error(joined(single), joined(together)) < 1e-4


def test_weights_of_several_rewards_and_the_held_out_one_is_never_optimised(tmp_path):
    gen = unsaturated()

    def gradient(*rewards, held_out="none"):
        return joined(gradient_of(gen, settings(tmp_path, rewards=rewards, held_out=held_out, typicality="none"))[0])

    one, other = gradient("colourfulness"), gradient("jpeg")
    both = gradient("0.5*colourfulness", "-2*jpeg")
    assert relative_error(both, 0.5 * one - 2 * other) < 1e-5
    assert torch.equal(gradient("colourfulness", held_out="jpeg_file"), one)  # which has no gradient at all


@pytest.mark.parametrize("typicality", ["norm", "concentration"])
def test_typicality_holds_the_noise_back(gen, tmp_path, typicality):
    from adjointdpm.losses.typicality import concentration_penalty, norm_penalty

    penalty = norm_penalty if typicality == "norm" else concentration_penalty
    ends = {}
    for weight in (0, 0.05):
        config = settings(
            tmp_path / str(weight), typicality=typicality, typicality_weight=weight, lr=0.1, epochs=12,
            rewards=("5*colourfulness",), prompts=("cat",),
        )  # fmt: skip
        noise = load_tensors(maximise_reward(config, gen).files[0])[0]["latents"]
        ends[weight] = float(penalty(noise))
    assert ends[0.05] < 0.6 * ends[0]


def test_cheaper_gradients_run_the_same_sampler(gen, tmp_path):
    config = settings(tmp_path, optimise="weights", gradient="truncated", last_k=1, steps=4)
    ours = generator_for(gen, config)
    assert ours.road == "ode"
    with torch.no_grad():
        image, plain = (g(["red apple"], seed=3, num_inference_steps=4, guidance_scale=3.0).image for g in (ours, gen))
    assert float((image - plain).abs().max()) < 0.02  # DDIM but for the last step, which ends at sigma = 0 here


def test_truncated_gradients(gen, tmp_path):
    def gradient(**changes):
        return joined(gradient_of(gen, settings(tmp_path, optimise="weights", train="all", steps=4, **changes))[0])

    exact_there = settings(tmp_path, optimise="weights", train="all", steps=4)
    ode = generator_for(gen, settings(tmp_path, optimise="weights", gradient="truncated")).with_(gradient="exact")
    exact = joined(gradient_of(ode, exact_there)[0])
    assert relative_error(gradient(gradient="truncated", last_k=4), exact) < 1e-6
    errors = [relative_error(gradient(gradient="truncated", last_k=k), exact) for k in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2] > 1e-3
    assert relative_error(gradient(gradient="one_step"), exact) > 0.05


def test_random_truncation_follows_from_the_step(gen, tmp_path):
    config = settings(tmp_path, optimise="weights", gradient="random_truncation", steps=4)
    lengths = [config.last_steps(step) for step in range(1, 200)]
    assert set(lengths) == {1, 2, 3, 4}
    assert max(lengths.count(k) for k in (1, 2, 3, 4)) < 75
    other = settings(tmp_path, optimise="weights", gradient="random_truncation", steps=4, init_seed=1)
    assert [other.last_steps(step) for step in range(1, 200)] != lengths
    for step in (1, 2):
        drawn = joined(gradient_of(gen, config, step)[0])
        fixed = settings(tmp_path, optimise="weights", gradient="truncated", last_k=lengths[step - 1], steps=4)
        assert torch.equal(drawn, joined(gradient_of(gen, fixed, step)[0]))


def test_the_one_step_gradient_reaches_the_noise(gen, tmp_path):
    assert maximise_reward(settings(tmp_path, gradient="one_step", epochs=2), gen).losses
    for gradient in ("truncated", "random_truncation"):
        with pytest.raises(ValueError, match="gradient to the noise is zero"):
            settings(tmp_path, gradient=gradient)


def test_fresh_noises_take_turns_and_never_repeat(tmp_path):
    config = settings(tmp_path, optimise="weights", prompts=("a", "b", "c"), seeds=(1, 2), pairs_per_step=4)
    steps = [config.items(step) for step in range(1, 7)]
    assert all(len(items) == 4 for items in steps)
    places = [item.place for items in steps[:3] for item in items]
    assert sorted(places) == sorted([*range(6), *range(6)])
    seeds = [item.seed for items in steps for item in items]
    assert len(set(seeds)) == len(seeds)
    assert config.items(2) == steps[1]
    fixed = settings(tmp_path, optimise="weights", prompts=("a", "b"), seeds=(1, 2), noises="fixed")
    assert {(i.prompt, i.seed) for i in fixed.items(5)} == {("a", 1), ("a", 2), ("b", 1), ("b", 2)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_bit_for_bit(gen, tmp_path, kind):
    def run(name, on_step=None):
        config = settings(tmp_path / name, optimise=kind, epochs=5, checkpoint_every=2)
        return maximise_reward(config, gen, on_step=on_step)

    whole = run("a")

    def die(step, epochs, loss):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("b", die)
    assert load_checkpoint(tmp_path / "b" / "run").step == 2
    steps = []
    resumed = run("b", lambda step, *_: steps.append(step))
    assert steps == [3, 4, 5]
    assert resumed.losses == whole.losses
    assert resumed.results["seen"] == whole.results["seen"]
    ends = [load_checkpoint(r.folder).state["parameters"] for r in (whole, resumed)]
    assert torch.equal(*(joined(end) for end in ends))
    logs = [[{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(r.folder / "log.jsonl")]
            for r in (whole, resumed)]  # fmt: skip
    assert logs[0] == logs[1]
    again = run("b", lambda *a: pytest.fail("a finished run must not optimise"))
    assert again.results["seen"] == whole.results["seen"]
    with pytest.raises(InvalidInput, match="other settings: lr"):
        maximise_reward(settings(tmp_path / "b", optimise=kind, epochs=5, checkpoint_every=2, lr=0.5), gen)


def test_with_patience_the_best_state_is_kept(gen, tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    reward = f"{tmp_path}/mine.py:peaked"
    config = settings(tmp_path, rewards=(reward,), lr=3.0, epochs=20, patience=2, typicality="none")
    result = maximise_reward(config, gen)
    assert len(result.losses) < 20
    best = -min(result.losses)
    assert result.results["seen"]["reward"]["after"] == pytest.approx(best, rel=1e-4)


REWARDS = """
import torch
calls = 0
def scores(x, prompts):
    return x.mean((1, 2, 3))
def nan_later(x, prompts):
    global calls
    calls += 1
    return scores(x, prompts) * (float("nan") if calls > 3 else 1.0)  # one call is the trial before the run
def constant(x, prompts):
    return 0 * scores(x, prompts) + 1
def one_number(x, prompts):
    return x.mean()
def map_of_them(x, prompts):
    return x.mean(1)
def levels(x, prompts):
    return (255 * x).round().mean((1, 2, 3))
def detached(x, prompts):
    return scores(x.detach(), prompts)
def breaks(x, prompts):
    return x.mean((1, 2, 3)) * weights["sharp"]
def breaks_later(x, prompts):
    global calls
    calls += 1
    return breaks(x, prompts) if calls > 3 else scores(x, prompts)
def nothing():
    return 1
def peaked(x, prompts):
    return -(scores(x, prompts) - 0.1).square()
def nan(x, prompts):
    return scores(x, prompts) * float("nan")
def pessimist(x, prompts):
    from adjointdpm.losses.rewards import colourfulness
    return -colourfulness(x)
"""


def test_a_reward_that_turns_nan_names_the_step_and_keeps_the_last_good_state(gen, tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    config = settings(tmp_path, rewards=(f"{tmp_path}/mine.py:nan_later",))
    with pytest.raises(NonFinite, match=r"nan_later' is nan for image 1 of 2 at step 3.*the state after step 2 is"):
        maximise_reward(config, gen)
    assert load_checkpoint(config.out).step == 2
    assert json.loads((config.out / "run.json").read_text())["status"] == "failed"


def test_a_reward_that_breaks_later_names_itself_and_keeps_the_last_state(gen, tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    config = settings(tmp_path, rewards=(f"{tmp_path}/mine.py:breaks_later",))
    message = r"breaks_later' fails at mine\.py:\d+ .*: NameError.*step 3 of .*the state after step 2 is saved"
    with pytest.raises(InvalidInput, match=message):
        maximise_reward(config, gen)
    assert load_checkpoint(config.out).step == 2
    assert json.loads((config.out / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rewards": ("MINE:constant",)}, NotDifferentiable, "it is constant"),
        ({"rewards": ("MINE:one_number",)}, InvalidInput, "a single number for 2 images"),
        ({"rewards": ("MINE:map_of_them",)}, InvalidInput, r"returned shape \(2, 16, 16\)"),
        ({"rewards": ("MINE:levels",)}, NotDifferentiable, "a rounding"),
        ({"rewards": ("MINE:detached",)}, NotDifferentiable, "has no gradient"),
        ({"rewards": ("MINE:nan",)}, InvalidInput, "is nan for image 1"),
        ({"rewards": ("MINE:breaks",)}, InvalidInput, r"breaks' fails at mine\.py:\d+ .*: NameError: name 'weights'"),
        ({"rewards": ("MINE:nothing",)}, InvalidInput, r"nothing' takes no arguments; expected \(images\) or"),
        ({"held_out": "MINE:breaks"}, InvalidInput, r"breaks' fails at mine\.py"),
        ({"held_out": "MINE:nan"}, InvalidInput, "is nan for image 1"),
        ({"rewards": ("MINE:absent",)}, InvalidInput, "has no function 'absent'"),
        ({"rewards": ("jpeg_file",)}, NotDifferentiable, "'jpeg_file' has no gradient"),
        ({"rewards": ("colorfulness",)}, InvalidInput, "did you mean 'colourfulness'"),
        ({"rewards": ("classifier=wardrobe",)}, InvalidInput, "names 0 objects"),
        ({"rewards": ("classifier",), "prompts": ("a cat and a dog",)}, InvalidInput, "names 2 objects"),
        ({"held_out": "MINE:one_number"}, InvalidInput, "a single number"),
        ({"held_out": "nonsense"}, InvalidInput, "no reward 'nonsense'"),
        ({"optimise": "embedding", "rows": 16}, InvalidInput, "16 learnt rows do not fit"),
        ({"rewards": ("classifier",), "optimise": "embedding", "unseen_prompts": ("red",)}, InvalidInput, "red' names"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_nothing_is_written(gen, tmp_path, changes, error, message):
    (tmp_path / "mine.py").write_text(REWARDS)

    def fill(value):
        if isinstance(value, tuple):
            return tuple(fill(part) for part in value)
        return value.replace("MINE", str(tmp_path / "mine.py")) if isinstance(value, str) else value

    config = settings(tmp_path, **{key: fill(value) for key, value in changes.items()})
    with pytest.raises(error, match=message):
        maximise_reward(config, gen)
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": ("colourfulness", "2*colourfulness")}, "given twice"),
        ({"held_out": "-1*colourfulness"}, "so it cannot judge"),
        ({"rewards": ("0*sharpness",)}, "weight 0"),
        ({"prompts": ("cat", " ")}, "a prompt is empty"),
        ({"optimise": "weights", "unseen_prompts": ("",)}, "a prompt is empty"),
        ({"prompts": ("cat", "dog", "cat")}, "a prompt or a seed is given twice"),
        ({"seeds": (1, 1)}, "a prompt or a seed is given twice"),
        ({"pairs_per_step": 3, "optimise": "weights"}, "but there are 2 pairs"),
        ({"pairs_per_step": 1}, "each noise is changed at every step"),
        ({"noises": "fresh"}, "changes these very noises"),
        ({"lr": 0}, "greater than 0"),
        ({"typicality_weight": -1}, "greater than or equal to 0"),
        ({"optimise": "scheduler"}, "'noise', 'embedding' or 'weights'"),
        ({"token": "two words"}, "one word"),
        ({"epochs": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **changes)


def test_a_held_out_reward_that_falls_is_called_hacking(gen, tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    config = settings(
        tmp_path, held_out=f"{tmp_path}/mine.py:pessimist", seeds=(1, 2, 3), epochs=8, lr=0.1, typicality="none"
    )
    result = maximise_reward(config, gen)
    assert result.verdict == "hacked"
    assert "Reward hacking: the optimised reward rose" in result.report_path.read_text()


def test_no_held_out_reward(gen, tmp_path):
    result = maximise_reward(settings(tmp_path, held_out="none", epochs=1), gen)
    assert result.verdict == "no held-out reward"
    assert Rewards.of(settings(tmp_path, held_out=None), embedded=False).watched is None


@pytest.mark.parametrize(
    ("given", "idle"),
    [
        ({"rank": 4}, "`rank`: without effect with `optimise`='noise'"),
        ({"space": "token", "vectors": 2}, "`space`, `vectors`: without effect"),
        ({"optimise": "embedding", "token": "<x>"}, "`token`: without effect with `space`='prompt'"),
        ({"optimise": "embedding", "space": "token", "rows": 3}, "`rows`: without effect with `space`='token'"),
        ({"optimise": "weights", "typicality": "none"}, "`typicality`: without effect"),
        ({"optimise": "weights", "train": "all", "alpha": 2.0}, "`alpha`: without effect with `train`='all'"),
        ({"gradient": "one_step", "last_k": 2}, "`last_k`: without effect"),
    ],
)
def test_a_setting_of_what_is_not_optimised_is_refused(tmp_path, given, idle):
    with pytest.raises(ValueError, match=idle):
        RewardConfig(out=tmp_path, **given)
    for changes in ({"train": "all"}, {"optimise": "embedding"}):  # the preset's own rank is no such setting
        assert RewardConfig(out=tmp_path, preset="alignprop", gradient="exact", **changes).rank == 8


def test_what_is_learnt_on_is_not_called_unseen(tmp_path):
    with pytest.raises(ValueError, match="the prompt 'cat' with the seed 0 is learnt on"):
        RewardConfig(out=tmp_path, optimise="embedding", prompts=("cat",), unseen_prompts=("cat",), unseen_seeds=(0,))
    RewardConfig(out=tmp_path, optimise="embedding", prompts=("cat",), unseen_prompts=("cat",), unseen_seeds=(1,))


def test_settings_of_alignprop_lie_beneath_what_is_given(tmp_path):
    config = RewardConfig(out=tmp_path, preset="alignprop", steps=7)
    assert (config.optimise, config.gradient, config.rank, config.steps) == ("weights", "random_truncation", 4, 7)
    assert config.loop_settings().clip_norm == 1.0


@pytest.mark.parametrize("train", ["cross-attention", "all"])
def test_plain_weights_of_a_model_in_half_precision_need_mixed_precision(tmp_path, train):
    half = differentiable(tiny_pipeline().to(torch.float16))
    config = settings(tmp_path, optimise="weights", train=train)
    with pytest.raises(InvalidInput, match="does not mix with a pipeline in float16: say --mixed-precision fp16"):
        maximise_reward(config, half)
    assert not config.out.exists()


def test_mixed_precision_stays_close(gen, tmp_path):
    exact, loss = gradient_of(gen, settings(tmp_path, optimise="weights"))
    half, other = gradient_of(gen, settings(tmp_path, optimise="weights", mixed_precision="bf16"))
    assert other == pytest.approx(loss, rel=0.05)
    assert relative_error(joined(half), joined(exact)) < 0.3


def test_rewards_see_the_picture_that_is_shown(gen, tmp_path):
    """Clamped to [0, 1], so that no reward is gained outside of it."""
    seen = []

    def watch(images, prompts):
        seen.append(images.detach())
        return colourfulness(images)

    config = settings(tmp_path)
    with subject_of(gen, config) as (subject, painter):
        with torch.no_grad():
            subject.parameters["noise"].mul_(6)  # far out: many pixels saturate
        rewards = Rewards(config.terms, [watch], None, None)
        Objective(config, painter, subject, rewards).backward(1)
        out = painter.generate(*subject.draw([Item(0, "red apple", 1), Item(1, "blue cat", 1)]))
    assert float(out.image_unclamped.detach().min()) < 0
    assert torch.equal(seen[0], out.image.detach())
    assert float(chroma(seen[0]).min()) >= 0


def test_a_generator_is_asked_for(gen, tmp_path):
    with pytest.raises(InvalidInput, match="expected a generator"):
        maximise_reward(settings(tmp_path), gen.pipe)
