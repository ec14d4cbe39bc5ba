"""Textual-inversion files, read back by diffusers itself."""

import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.formats import TextualInversion
from adjointdpm.runs import load_tensors, save_tensors
from tests.support.tiny_pipeline import tiny_pipeline


def test_diffusers_loads_the_file_and_uses_every_vector(tmp_path):
    pipe = tiny_pipeline()
    vectors = torch.randn(2, 32)
    path = TextualInversion("<tone>", vectors, {"effect": "duotone"}).save(tmp_path / "tone.safetensors")
    pipe.load_textual_inversion(str(path))
    first = pipe.tokenizer.convert_tokens_to_ids("<tone>")
    table = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(table[first : first + 2], vectors)
    assert pipe.maybe_convert_prompt("red apple <tone>", pipe.tokenizer) == "red apple <tone> <tone>_1"


def test_one_key_float32_and_metadata_of_strings(tmp_path):
    path = TextualInversion("<tone>", torch.randn(3, 32).half(), {"seed": 1}).save(tmp_path / "t.safetensors")
    tensors, metadata = load_tensors(path)
    assert list(tensors) == ["<tone>"]
    assert tensors["<tone>"].dtype == torch.float32
    assert metadata["format"] == "pt"
    assert all(isinstance(value, str) for value in metadata.values())
    back = TextualInversion.load(path, width=32)
    assert (back.token, back.provenance) == ("<tone>", {"seed": 1})
    assert torch.equal(back.vectors, tensors["<tone>"])


def test_files_of_kohya_take_their_token_from_the_file_name(tmp_path):
    save_tensors(tmp_path / "moody.safetensors", {"emb_params": torch.zeros(1, 32)})
    assert TextualInversion.load(tmp_path / "moody.safetensors").token == "moody"


def test_wrong_width_and_wrong_files_are_named(tmp_path):
    path = TextualInversion("<x>", torch.zeros(1, 1024)).save(tmp_path / "x.safetensors")
    with pytest.raises(InvalidInput, match="got 1024, this text encoder has 768; looks like SD2"):
        TextualInversion.load(path, width=768)
    save_tensors(tmp_path / "xl.safetensors", {"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)})
    with pytest.raises(InvalidInput, match=r"xl\.safetensors holds 2 tensors \(clip_"):
        TextualInversion.load(tmp_path / "xl.safetensors")
    with pytest.raises(InvalidInput, match="one word without spaces"):
        TextualInversion("my effect", torch.zeros(1, 32))
    with pytest.raises(InvalidInput, match="NaN"):
        TextualInversion("<x>", torch.full((1, 32), float("inf")))
