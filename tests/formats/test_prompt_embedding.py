"""Prompt-space embeddings: placing rows, the file, use in plain diffusers."""

import copy
from types import SimpleNamespace

import pytest
import torch

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.formats import PromptEmbedding, apply, encode_prompts, fingerprint, lost_words, place_rows, word_rows
from adjointdpm.runs import save_tensors
from tests.support.tiny_pipeline import tiny_pipeline


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def test_tail_rows_are_the_same_for_every_prompt_and_the_rest_stays(pipe):
    encoded = encode_prompts(pipe, ["apple", "small flat red apple on blue stripes"])
    rows = torch.randn(4, 32)
    placed = place_rows(encoded, rows, "tail", [3, 9])
    assert placed.shape == encoded.shape == (2, 16, 32)
    assert torch.equal(placed[:, :12], encoded[:, :12])
    assert torch.equal(placed[0, 12:], rows)
    assert torch.equal(placed[1, 12:], rows)


def test_fill_keeps_each_prompts_own_words(pipe):
    prompts = ["apple", "small flat red apple on blue stripes"]
    assert word_rows(pipe, prompts) == [3, 9]  # start, words, end
    encoded = encode_prompts(pipe, prompts)
    rows = torch.randn(10, 32)
    placed = place_rows(encoded, rows, "fill", word_rows(pipe, prompts))
    assert torch.equal(placed[0, :6], encoded[0, :6])
    assert torch.equal(placed[0, 6:], rows)
    assert torch.equal(placed[1, :9], encoded[1, :9])
    assert torch.equal(placed[1, 9:], rows[3:])  # each row at its own position


def test_an_encoder_without_a_fixed_number_of_rows_is_refused(pipe):
    from transformers import T5Config, T5EncoderModel

    encoder = T5EncoderModel(T5Config(vocab_size=8, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8))
    with pytest.raises(InvalidInput, match="T5EncoderModel gives as many rows as it is asked for"):
        word_rows(SimpleNamespace(tokenizer=pipe.tokenizer, text_encoder=encoder), ["apple"])


def test_placing_carries_gradients_to_rows_and_prompt():
    encoded = torch.randn(2, 16, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    for position in ("tail", "fill"):
        assert torch.autograd.gradcheck(lambda e, r, p=position: place_rows(e, r, p, [3, 13]), (encoded, rows))


def test_lost_words_are_named(pipe):
    assert lost_words(pipe, "red apple on blue stripes", 8) == ""
    # 16 - 12 = 4 places: the start token and three words stay.
    assert lost_words(pipe, "red apple on blue stripes", 12) == "blue stripes"
    embedding = PromptEmbedding(torch.zeros(12, 32), "tail", 16)
    with pytest.warns(InputWarning, match=r"loses the words 'blue stripes' to the embedding's 12 rows"):
        embedding.apply(pipe, "red apple on blue stripes")


def test_the_file_round_trips_and_works_in_plain_diffusers(pipe, tmp_path):
    embedding = PromptEmbedding(torch.randn(8, 32), "tail", 16, {"base_model": fingerprint(pipe), "effect": "sepia"})
    path = embedding.save(tmp_path / "e.safetensors")
    loaded = PromptEmbedding.load(path)
    assert torch.equal(loaded.rows, embedding.rows)
    assert (loaded.position, loaded.encoder_length, loaded.provenance) == ("tail", 16, embedding.provenance)
    settings = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    plain = pipe("red apple", generator=torch.Generator().manual_seed(1), **settings).images
    with_rows = pipe(
        prompt_embeds=apply(path, pipe, "red apple"),
        negative_prompt="",
        generator=torch.Generator().manual_seed(1),
        **settings,
    ).images
    assert with_rows.shape == plain.shape
    assert (with_rows - plain).abs().max() > 1e-5


def test_width_and_length_errors_name_both_numbers(pipe):
    with pytest.raises(InvalidInput, match="got 1024, this text encoder has 32; looks like SD2"):
        PromptEmbedding(torch.zeros(8, 1024), "tail", 16).apply(pipe, "apple")
    with pytest.raises(InvalidInput, match="an encoder of 77 rows; this one has 16"):
        PromptEmbedding(torch.zeros(8, 32), "tail", 77).apply(pipe, "apple")


def test_another_model_is_noticed(pipe):
    other = copy.deepcopy(pipe.components)
    with torch.no_grad():
        other["unet"].conv_in.weight[0, 0, 0, 0] += 1e-3
    changed = type(pipe)(**other, requires_safety_checker=False)
    assert fingerprint(changed)["text_encoder"] == fingerprint(pipe)["text_encoder"]
    assert fingerprint(changed)["denoiser"] != fingerprint(pipe)["denoiser"]
    embedding = PromptEmbedding(torch.zeros(2, 32), "tail", 16, {"base_model": fingerprint(pipe)})
    with pytest.warns(InputWarning, match="learnt on another model"):
        embedding.apply(changed, "apple")


def test_bad_rows_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"shape \(3,\)"):
        PromptEmbedding(torch.zeros(3), "tail", 16)
    with pytest.raises(InvalidInput, match="NaN"):
        PromptEmbedding(torch.full((2, 3), float("nan")), "tail", 16)
    with pytest.raises(InvalidInput, match="expected 'tail' or 'fill'"):
        PromptEmbedding(torch.zeros(2, 3), "front", 16)
    save_tensors(tmp_path / "x.safetensors", {"<x>": torch.zeros(1, 3)})
    with pytest.raises(InvalidInput, match=r"x\.safetensors is no prompt-space embedding"):
        PromptEmbedding.load(tmp_path / "x.safetensors")


def test_a_pipeline_with_two_text_encoders_is_refused():
    class Two:
        text_encoder = text_encoder_2 = object()

    with pytest.raises(InvalidInput, match="has no single text encoder"):
        encode_prompts(Two(), ["a"])
