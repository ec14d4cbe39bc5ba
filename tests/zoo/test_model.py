"""The architecture at random weights, and the shipped folder in plain diffusers."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from adjointdpm import zoo
from adjointdpm.errors import InvalidInput
from adjointdpm.zoo.build import TEXT_WIDTH, build_pipeline
from adjointdpm.zoo.classifiers import Classifier, Judge
from adjointdpm.zoo.load import WEIGHTS
from adjointdpm.zoo.measure import generate, object_recognised, wilson

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pipe():
    return zoo.emoji()


def test_random_weights_generate_and_save(tmp_path):
    pipe = build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    assert pipe("flat cat", num_inference_steps=2).images[0].size == (64, 64)
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "model_index.json").exists()


def test_shipped_folder_loads_in_plain_diffusers_without_a_dtype():
    plain = StableDiffusionPipeline.from_pretrained(zoo.emoji_folder())
    plain.set_progress_bar_config(disable=True)
    image = plain("flat cat on red background", num_inference_steps=2, guidance_scale=4.0, output_type="np").images
    assert image.shape == (1, 64, 64, 3)
    assert plain.unet.dtype == plain.vae.dtype == plain.text_encoder.dtype == torch.float32


def test_emoji_is_frozen_float32_and_in_evaluation_mode(pipe):
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert not part.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in part.parameters())
    assert pipe.safety_checker is None
    assert pipe.scheduler.config.prediction_type == "v_prediction"


def test_it_paints_what_the_prompt_says(pipe):
    rows = [("strawberry", "flat"), ("owl", "shaded"), ("robot", "3d"), ("pizza", "flat")]
    images = generate(pipe, [f"{style} {word} on white background" for word, style in rows], seed=3, steps=12)
    scores = zoo.judge()(images)
    objects = list(zoo.vocabulary()["objects"])
    styles = list(zoo.vocabulary()["styles"])
    right = sum(objects[o] == word for o, (word, _) in zip(scores.objects.argmax(1).tolist(), rows, strict=True))
    assert right >= 3
    right = sum(styles[s] == style for s, (_, style) in zip(scores.styles.argmax(1).tolist(), rows, strict=True))
    assert right >= 3


def test_recognising_reads_prompts_as_the_tokenizer_does(pipe):
    images = generate(pipe, ["Flat Pizza, on white background."], seed=3, steps=12)
    found = [bool(object_recognised(images, [text], zoo.judge())) for text in ("PIZZA!", "a pizza, an owl", "owl")]
    assert found == [True, True, False]
    with pytest.raises(InvalidInput, match="'blue stripes' names no object"):
        object_recognised(images, ["blue stripes"], zoo.judge())


def test_textual_inversion_file_loads(tmp_path):
    pipe = zoo.emoji()
    vector = torch.full((TEXT_WIDTH,), 0.5)
    save_file({"<frosty>": vector}, tmp_path / "frosty.safetensors")
    pipe.load_textual_inversion(tmp_path, weight_name="frosty.safetensors")
    token = pipe.tokenizer.convert_tokens_to_ids("<frosty>")
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[token], vector)
    ids = pipe.tokenizer("flat cat <frosty>").input_ids
    assert token in ids
    pipe("flat cat <frosty>", num_inference_steps=1)


@pytest.mark.parametrize("network", [Classifier, Judge])
def test_classifier_interface(network):
    network = network().eval()
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    scores = network(image)
    assert scores.objects.shape == (2, len(zoo.vocabulary()["objects"])) and scores.styles.shape == (2, 3)
    maps = network.features(image)
    assert len(maps) >= 3
    sum(m.square().mean() for m in maps).backward()
    assert torch.isfinite(image.grad).all() and image.grad.abs().sum() > 0


def test_classifier_and_judge_are_shipped_frozen():
    for network in (zoo.classifier(), zoo.judge()):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert type(zoo.classifier()) is not type(zoo.judge())


def test_shipped_files_are_small_named_and_free_of_pickle():
    files = [f for f in WEIGHTS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 25e6
    assert {f.suffix for f in files if f.name != "SHA256SUMS"} <= {".safetensors", ".json", ".md", ""}
    card = (zoo.emoji_folder() / "README.md").read_text()
    assert all(word in card for word in ("Apache", "CC-BY 4.0", "MIT", "Twemoji", "Noto", "Fluent"))
    index = json.loads((zoo.emoji_folder() / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline" and index["safety_checker"] == [None, None]


def test_wilson():
    low, high = wilson(97, 100)
    assert 0.915 < low < 0.916 and 0.989 < high < 0.990
    assert wilson(0, 0) == (0.0, 1.0)
