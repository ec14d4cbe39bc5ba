"""`adjointdpm generate` on a tiny model: files, records, seeds, embeddings, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adjointdpm.cli.generate import slug
from adjointdpm.formats import PromptEmbedding, TextualInversion, read_png_text
from adjointdpm.runs import save_tensors


@pytest.fixture
def paint(cli: Callable[..., Any], tiny_folder: Path) -> Callable[..., Any]:
    def run(*arguments: object) -> Any:
        return cli("generate", "--model", tiny_folder, "--device", "cpu", *arguments)

    return run


def pixels(path: Path | str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


def test_images_records_and_names(paint: Callable[..., Any], tmp_path: Path) -> None:
    ran = paint("red apple", "blue fish", "--count", 2, "--steps", 2, "--seed", 5, "--negative", "dog", "--batch", 3)
    assert ran.code == 0, ran.err
    names = ["0000-red-apple", "0001-red-apple", "0002-blue-fish", "0003-blue-fish"]
    assert sorted(file.stem for file in (tmp_path / "out").iterdir()) == names
    assert ran.out.split() == [f"out/{name}.png" for name in names]
    text = read_png_text(tmp_path / "out" / "0002-blue-fish.png")
    assert text is not None
    assert text.startswith("blue fish\nNegative prompt: dog\nSteps: 2, Sampler: DDIMScheduler, CFG scale: 3, Seed: 7,")


def test_an_image_does_not_depend_on_its_batch(paint: Callable[..., Any], tmp_path: Path) -> None:
    paint("red apple", "--count", 3, "--steps", 2, "--batch", 1, "--out", "one")
    paint("red apple", "--count", 3, "--steps", 2, "--batch", 3, "--out", "three")
    paint("red apple", "--steps", 2, "--seed", 2, "--out", "alone")
    last = pixels("one/0002-red-apple.png").astype(int)
    assert np.abs(last - pixels("three/0002-red-apple.png")).max() <= 1  # sums in another order, then rounding
    assert np.array_equal(last, pixels("alone/0000-red-apple.png"))
    assert not np.array_equal(last, pixels("one/0001-red-apple.png"))


def test_json_document(paint: Callable[..., Any], tiny_folder: Path) -> None:
    document = paint("red xyzzy", "--steps", 2, "--json").document
    assert document["images"] == [
        {"file": "out/0000-red-xyzzy.png", "prompt": "red xyzzy", "seed": 0, "flagged": False}
    ]
    assert document["model"] == str(tiny_folder)
    assert any("xyzzy" in warning for warning in document["warnings"])


def test_nothing_is_overwritten_without_force(paint: Callable[..., Any]) -> None:
    Path("out").mkdir()
    Path("out/0001-red-apple.png").write_bytes(b"mine")
    ran = paint("red apple", "--count", 2, "--steps", 2)
    assert ran.code == 2
    assert "0001-red-apple.png" in ran.err
    assert "--force" in ran.err
    assert Path("out/0001-red-apple.png").read_bytes() == b"mine"
    assert not Path("out/0000-red-apple.png").exists()
    assert paint("red apple", "--count", 2, "--steps", 2, "--force").code == 0
    assert pixels("out/0001-red-apple.png").shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", 5000], ["5000", "1000"]),
        (["--solver", "magic"], ["magic", "ab4"]),
        (["--spacing", "karras"], ["karras", "solver"]),
        (["--solver", "euler", "--spacing", "even", "--steps", 2], ["even"]),
        (["--solver", "euler", "--form", "curly", "--steps", 2], ["curly"]),
        (["--height", 17], ["17"]),
        (["--device", "tpu"], ["tpu"]),
        (["--dtype", "int8"], ["int8"]),
        (["--embedding", "nowhere.safetensors"], ["nowhere.safetensors"]),
        (["--noise", "nowhere.safetensors"], ["nowhere.safetensors"]),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    paint: Callable[..., Any], tmp_path: Path, arguments: list[object], words: list[str]
) -> None:
    ran = paint("red apple", *arguments)
    assert ran.code == 2, ran.err
    assert ran.err.count("error:") == 1
    assert "Traceback" not in ran.err
    assert all(word in ran.err for word in words), ran.err
    assert list(tmp_path.iterdir()) == []


def test_out_that_is_a_file(paint: Callable[..., Any]) -> None:
    Path("taken").write_text("x")
    ran = paint("red apple", "--out", "taken/deeper")
    assert ran.code == 2
    assert "is a file" in ran.err


def test_ode_road_is_recorded(paint: Callable[..., Any]) -> None:
    assert paint("red apple", "--steps", 3, "--solver", "ab2", "--spacing", "karras").code == 0
    assert "Sampler: ab2" in str(read_png_text("out/0000-red-apple.png"))


def test_prompt_space_embedding_changes_the_image(paint: Callable[..., Any]) -> None:
    PromptEmbedding(torch.ones(4, 32), "tail", 16).save("rows.safetensors")
    paint("red apple", "--steps", 2, "--out", "plain")
    ran = paint("red apple", "--steps", 2, "--out", "learnt", "--embedding", "rows.safetensors")
    assert ran.code == 0, ran.err
    assert not np.array_equal(pixels("plain/0000-red-apple.png"), pixels("learnt/0000-red-apple.png"))
    assert "Embedding: rows.safetensors" in str(read_png_text("learnt/0000-red-apple.png"))


def test_token_embedding_is_used_by_its_name(paint: Callable[..., Any]) -> None:
    TextualInversion("<glow>", torch.ones(2, 32)).save("glow.safetensors")
    plain = paint("red apple", "--steps", 2, "--out", "plain", "--embedding", "glow.safetensors")
    assert "does not use the token <glow>" in plain.err
    ran = paint("red apple <glow>", "--steps", 2, "--out", "learnt", "--embedding", "glow.safetensors")
    assert ran.code == 0, ran.err
    assert "warning" not in ran.err
    assert not np.array_equal(pixels("plain/0000-red-apple.png"), pixels("learnt/0000-red-apple-glow.png"))


def test_embeddings_of_another_width_or_kind(paint: Callable[..., Any]) -> None:
    TextualInversion("<glow>", torch.ones(2, 768)).save("wide.safetensors")
    ran = paint("red apple", "--embedding", "wide.safetensors")
    assert ran.code == 2
    assert "768" in ran.err
    assert "32" in ran.err
    save_tensors("noise.safetensors", {"latents": torch.zeros(2, 4, 8, 8)})
    ran = paint("red apple", "--noise", "noise.safetensors")
    assert ran.code == 2
    assert "(1, C, h, w)" in ran.err


@pytest.mark.parametrize(
    ("text", "name"),
    [("a Red apple!", "a-red-apple"), ("../../etc/passwd", "etc-passwd"), ("日本", "image"), ("x" * 300, "x" * 60)],
)
def test_slugs_are_safe_file_names(text: str, name: str) -> None:
    assert slug(text) == name
