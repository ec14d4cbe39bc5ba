"""The built-in rewards: against their published formulas, against real files, and against finite differences."""

import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.losses.clamp import clamp_inward
from adjointdpm.losses.rewards import (
    BUILT_IN,
    ClassProbability,
    ClipSimilarity,
    EmbeddingSimilarity,
    check_reward,
    check_scores,
    chroma,
    colourfulness,
    jpeg_file_size,
    jpeg_size,
    load_clip,
    load_reward,
    read_term,
    sharpness,
)


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pictures(count=90):
    """Drawings of many kinds, 64 x 64: discs on plain and shaded grounds, stripes, blurred and sharp noise."""
    source = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    made = []
    for i in range(count):
        a, b, c = (torch.rand(3, 1, 1, generator=source) for _ in range(3))
        u = torch.rand(4, generator=source)
        ground = a + (b - a) * x * (i % 3 > 0)
        for _ in range(1 + i % 4):
            center = torch.rand(3, generator=source)
            disc = ((x - center[0]) ** 2 + (y - center[1]) ** 2 < 0.02 + 0.05 * center[2]).float()
            ground = ground * (1 - disc) + disc * torch.rand(3, 1, 1, generator=source)
        stripes = 0.5 + 0.5 * torch.sin(6.28 * (2 + 14 * u[0]) * (x * u[1] + y * (1 - u[1])))
        ground = ground + 0.3 * u[2] * (i % 2) * (stripes - 0.5)
        grain = torch.randn(1, 3, 64, 64, generator=source)
        grain = F.avg_pool2d(grain, 5, 1, 2)[0] * 3 if i % 5 == 0 else grain[0]
        made.append((ground + 0.12 * u[3] ** 2 * grain * (c * 0 + 1)).clamp(0, 1))
    return torch.stack(made)


def published_colourfulness(image):
    """Hasler and Süsstrunk, written out on 0 … 255."""
    r, g, b = (255 * image.double().numpy()).reshape(3, -1)
    rg, yb = r - g, 0.5 * (r + g) - b
    spread = np.sqrt(rg.std() ** 2 + yb.std() ** 2)
    return (spread + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)) / 100


def test_colourfulness_is_the_published_formula():
    images = pictures(12)
    expected = [published_colourfulness(image) for image in images]
    assert colourfulness(images).tolist() == pytest.approx(expected, abs=1e-4)
    grey = noise(2, 1, 8, 8).expand(-1, 3, -1, -1)
    assert colourfulness(grey).tolist() == pytest.approx([0, 0], abs=1e-4)


@pytest.mark.parametrize(
    ("rgb", "expected"), [((1, 0, 0), 104.55), ((0, 1, 0), 119.78), ((0, 0, 1), 133.81), ((1, 1, 1), 0), ((0, 0, 0), 0)]
)
def test_chroma_of_the_primaries_in_cielab(rgb, expected):
    image = torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert 100 * float(chroma(image)) == pytest.approx(expected, abs=0.15)


def test_sharpness_orders_blur_picture_and_noise():
    images = pictures(8)
    blurred = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, 1)
    grainy = images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    assert (sharpness(blurred) < sharpness(images)).all()
    assert (sharpness(images) < sharpness(grainy)).all()
    assert float(sharpness(torch.full((1, 3, 8, 8), 0.3))) < 1e-4
    with pytest.raises(InvalidInput, match="at least 3 x 3"):
        sharpness(noise(1, 3, 2, 9))


@pytest.mark.parametrize("quality", [40, 75, 90])
def test_the_jpeg_estimate_ranks_images_as_real_files_do(quality):
    images = pictures()
    estimate, real = jpeg_size(images, quality), jpeg_file_size(images, quality)
    assert spearmanr(estimate, real).statistic > 0.96
    header = float((real - estimate).median())
    assert 0.4 < header < 1.1  # kilobytes of tables that every file has
    assert float((real - estimate - header).abs().median()) < 0.2 * float(real.median())


def test_what_the_estimate_makes_smaller_is_smaller_as_a_file():
    images = pictures(6).requires_grad_()
    before = jpeg_file_size(images)
    optimizer = torch.optim.Adam([images], 0.003)
    for _ in range(20):
        optimizer.zero_grad()
        jpeg_size(images).sum().backward()
        optimizer.step()
    assert (jpeg_file_size(images) < before).all()
    assert float((jpeg_file_size(images) / before).mean()) < 0.93


def test_jpeg_of_other_sizes_and_qualities():
    image = noise(2, 3, 21, 34)
    sizes = [jpeg_size(image, q) for q in (10, 50, 95)]
    assert (sizes[0] < sizes[1]).all()
    assert (sizes[1] < sizes[2]).all()
    flat = torch.full((1, 3, 64, 64), 0.5)
    assert float(jpeg_size(flat)) < 0.1
    for bad in (0, 101, 7.5, True):
        with pytest.raises(InvalidInput, match="from 1 to 100"):
            jpeg_size(image, bad)


@pytest.mark.parametrize("reward", [colourfulness, chroma, sharpness, jpeg_size], ids=lambda f: f.__name__)
def test_gradients_of_the_built_in_rewards(reward):
    image = (0.1 + 0.8 * noise(2, 3, 9, 9, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(reward, image, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("reward", [colourfulness, chroma, sharpness, jpeg_size], ids=lambda f: f.__name__)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_images_have_finite_gradients(reward, value):
    image = torch.full((1, 3, 16, 16), value, requires_grad=True)
    reward(image).sum().backward()
    assert torch.isfinite(image.grad).all()


def test_every_built_in_name_scores_each_image_on_its_own():
    images = pictures(4)
    for name in BUILT_IN:
        if name == "clip":
            continue
        reward = load_reward(read_term(name))
        together = reward(images, ["a"] * 4)
        apart = torch.cat([reward(image[None], ["a"]) for image in images])
        assert together.shape == (4,)
        assert torch.allclose(together, apart, rtol=1e-4), name


def test_class_probability():
    logits = noise(3, 5)
    network = lambda images: logits  # noqa: E731
    images = noise(3, 3, 8, 8)
    expected = torch.log_softmax(logits, dim=1)
    assert torch.equal(ClassProbability(network, 2)(images, ["a"] * 3), expected[:, 2])
    by_prompt = ClassProbability(network, lambda prompts: [len(p) for p in prompts])
    assert torch.equal(by_prompt(images, ["", "x", "xxxx"]), expected[[0, 1, 2], [0, 1, 4]])
    with pytest.raises(InvalidInput, match="class 5 is out of range: the classifier has 5 classes"):
        ClassProbability(network, 5)(images, ["a"] * 3)
    with pytest.raises(InvalidInput, match=r"returned \(3,\); expected logits of shape \(3, classes\)"):
        ClassProbability(lambda x: logits[:, 0], 0)(images, ["a"] * 3)


class Tokenizer:
    """Letters as numbers; what a CLIP tokenizer gives back."""

    calls = 0

    def __call__(self, texts, padding, truncation, return_tensors):
        self.calls += 1
        ids = torch.tensor([[3 + ord(c) % 50 for c in text[:6].ljust(6)] + [98] for text in texts])
        return types.SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))


def clip_model(seed=0):
    from transformers import CLIPConfig, CLIPModel

    sides = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sides, "vocab_size": 99, "max_position_embeddings": 7, "eos_token_id": 98, "bos_token_id": 97}
    vision = {**sides, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def test_clip_agrees_with_the_models_own_similarity():
    model, tokenizer = clip_model(), Tokenizer()
    reward = ClipSimilarity(model, tokenizer)
    images = noise(3, 3, 32, 32)
    prompts = ["a cat", "a dog", "a cat"]
    scores = reward(images, prompts)
    coded = tokenizer(prompts, None, None, None)
    normalised = (images - reward.mean) / reward.std
    with torch.no_grad():
        own = model(input_ids=coded.input_ids, attention_mask=coded.attention_mask, pixel_values=normalised)
    assert torch.allclose(scores, own.logits_per_image.diagonal() / model.logit_scale.exp(), atol=1e-5)
    calls = tokenizer.calls
    reward(images, prompts)
    assert tokenizer.calls == calls  # texts are kept
    check_reward(reward, "clip", images, prompts)


def test_clip_prepares_pictures_as_its_processor_does():
    from transformers import CLIPImageProcessor

    reward = ClipSimilarity(clip_model(), Tokenizer())
    images = F.interpolate(noise(2, 3, 9, 12), (72, 96), mode="bicubic").clamp(0, 1)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    from adjointdpm.report import to_pil

    theirs = CLIPImageProcessor(**size)(to_pil(images), return_tensors="pt")["pixel_values"]
    seen = []
    reward.model.get_image_features = lambda pixel_values: seen.append(pixel_values) or pixel_values.mean((2, 3))
    reward.embed_images(images)
    assert seen[0].shape == theirs.shape
    assert float((seen[0] - theirs).abs().mean()) < 0.02  # theirs rounds to bytes
    small = noise(1, 3, 16, 16)
    reward.embed_images(small)
    assert seen[1].shape == (1, 3, 32, 32)


def test_another_architecture_by_its_two_encoders():
    reward = EmbeddingSimilarity(lambda x: x.mean((2, 3)), lambda texts: torch.eye(3)[[len(t) for t in texts]])
    images = torch.zeros(2, 3, 4, 4)
    images[0, 1], images[1, 2] = 1, 1
    assert reward(images, ["x", "x"]).tolist() == pytest.approx([1, 0])
    wrong = EmbeddingSimilarity(lambda x: x.mean((1, 2, 3)), lambda texts: torch.ones(len(texts), 3))
    with pytest.raises(InvalidInput, match=r"shape \(2,\), those of prompts \(2, 3\)"):
        wrong(images, ["x", "x"])


def test_a_clip_folder_that_is_none(tmp_path):
    with pytest.raises(InvalidInput, match="no CLIP model could be loaded"):
        load_clip(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "weight", "name", "argument"),
    [
        ("colourfulness", 1, "colourfulness", None),
        ("0.5*classifier=red cat", 0.5, "classifier", "red cat"),
        ("-1 * jpeg=90", -1, "jpeg", "90"),
        ("2e-3*my_module:score", 0.002, "my_module:score", None),
        ("some/path=x/rewards.py:score", 1, "some/path=x/rewards.py:score", None),
        ("clip=models/a=b", 1, "clip", "models/a=b"),
    ],
)
def test_terms(text, weight, name, argument):
    term = read_term(text)
    assert (term.weight, term.name, term.argument) == (weight, name, argument)
    assert term.text == text


@pytest.mark.parametrize("text", ["", "0*sharpness", "1e999*sharpness", "jpeg=", "=3", "2*"])
def test_terms_that_are_none(text):
    with pytest.raises(InvalidInput, match="the reward"):
        read_term(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colorfulness", "did you mean 'colourfulness'"),
        ("sharpness=3", "takes no argument; got '3'"),
        ("jpeg=high", "a JPEG quality from 1 to 100, got 'high'"),
        ("clip", "clip=FOLDER"),
        ("no_such_module:score", "^cannot import 'no_such_module' of 'no_such_module:score': ModuleNotFoundError"),
        ("math:pi", "has no function 'pi'"),
    ],
)
def test_rewards_that_are_none(text, message):
    with pytest.raises(InvalidInput, match=message):
        load_reward(read_term(text))


def test_functions_of_one_two_and_three_arguments(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def one(x):\n    return x.mean((1, 2, 3))\n"
        "def two(x, prompts):\n    return one(x) * len(prompts)\n"
        "def optional(x, prompts=None):\n    return two(x, prompts)\n"
        "def trl(x, prompts, metadata):\n    assert metadata == [{}] * len(prompts)\n    return two(x, prompts), {}\n"
        "def everything(*arguments):\n    return two(*arguments)\n"
        "def four(a, b, c, d):\n    return a\n"
    )
    images = noise(2, 3, 4, 4)
    mean = images.mean((1, 2, 3))
    for name, factor in (("one", 1), ("two", 2), ("optional", 2), ("trl", 2), ("everything", 2)):
        reward = load_reward(read_term(f"{tmp_path}/mine.py:{name}"))
        assert torch.equal(reward(images, ["a", "b"]), factor * mean)
    with pytest.raises(InvalidInput, match="takes 4 arguments"):
        load_reward(read_term(f"{tmp_path}/mine.py:four"))


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x.mean(), InvalidInput, "a single number for 2 images; expected one score for each"),
        (lambda x: 0.5, InvalidInput, "a single number for 2 images"),
        (lambda x: x.mean((2, 3)), InvalidInput, r"returned shape \(2, 3\)"),
        (lambda x: [1.0, 2.0], InvalidInput, "returned list"),
        (lambda x: (255 * x).round().mean((1, 2, 3)), NotDifferentiable, "zero everywhere"),
        (lambda x: 0 * x.mean((1, 2, 3)) + 3, NotDifferentiable, "it is constant"),
        (lambda x: torch.ones(2), NotDifferentiable, "has no gradient: it is constant, or detached"),
        (lambda x: x.detach().mean((1, 2, 3)), NotDifferentiable, "has no gradient"),
        (lambda x: torch.ones(2, requires_grad=True), NotDifferentiable, "does not depend on the images"),
        (lambda x: x.mean((1, 2, 3)).long(), NotDifferentiable, "returned torch.int64"),
        (lambda x: x.mean((1, 2, 3)) * float("nan"), InvalidInput, "is nan for image 1 of 2"),
        (lambda x: (x.mean((1, 2, 3)) - x.mean((1, 2, 3))).sqrt(), InvalidInput, "gradient .* NaN or infinite"),
    ],
)
def test_rewards_that_cannot_be_optimised_are_refused_with_the_reason(function, error, message):
    with pytest.raises(error, match=message):
        check_reward(lambda images, prompts: function(images), "mine", noise(1, 3, 8, 8), ["a"])


def test_a_column_of_scores_is_taken_and_a_step_is_named():
    scores = noise(3, 1).requires_grad_()
    assert torch.equal(check_scores(scores, 3, "mine"), scores[:, 0])
    with pytest.raises(NonFinite, match="'mine' is inf for image 2 of 2 at step 7"):
        check_scores(torch.tensor([0.0, float("inf")]), 2, "mine", 7, differentiable=False)
    assert check_scores(torch.zeros(2), 2, "mine", differentiable=False).tolist() == [0, 0]


def test_the_clamp_lets_saturated_pixels_come_back_and_go_no_farther():
    x = torch.tensor([-0.5, -0.5, 0.3, 0.3, 1.5, 1.5], requires_grad=True)
    down = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])  # the gradient of a loss: x is moved against it
    value = clamp_inward(x)
    assert value.tolist() == pytest.approx([0, 0, 0.3, 0.3, 1, 1])
    value.backward(down)
    assert x.grad.tolist() == [0, -1, 1, -1, 1, 0]
