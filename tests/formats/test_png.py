"""PNG texts."""

import pytest
from PIL import Image

from adjointdpm.errors import InvalidInput
from adjointdpm.formats import GenerationText, read_png_text, save_png


def test_the_text_reads_back_as_other_tools_expect_it(tmp_path):
    text = GenerationText("a red apple, größer", "blurry", 20, "DDIM", 5.0, 7, {"Embedding": "duotone"})
    path = save_png(Image.new("RGB", (64, 48)), tmp_path / "a.png", text)
    assert read_png_text(path) == (
        "a red apple, größer\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: DDIM, CFG scale: 5, Seed: 7, Size: 64x48, Embedding: duotone"
    )


def test_absent_fields_leave_no_trace_and_bad_files_are_named(tmp_path):
    path = save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", GenerationText("x"))
    assert read_png_text(path) == "x\nSize: 8x8"
    assert read_png_text(save_png(Image.new("RGB", (8, 8)), tmp_path / "b.png")) is None
    (tmp_path / "c.png").write_text("no image")
    with pytest.raises(InvalidInput, match=r"c\.png is not a readable image"):
        read_png_text(tmp_path / "c.png")
