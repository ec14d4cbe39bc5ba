"""Target images of every kind that a user may hand over."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.tasks.images import parts, read_image

RED = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)


def test_an_rgb_image_of_the_right_size_is_read_without_a_word(tmp_path, recwarn):
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png", (4, 6)), RED.expand(1, 3, 4, 6))
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "I;16", "1", "RGBA"])
def test_other_modes_are_converted_and_said(tmp_path, mode):
    name = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((4, 4), 257 * 153, np.uint16)).save(name)
    else:
        Image.new("RGB", (4, 4), (153, 153, 153)).convert(mode).save(name)
    with pytest.warns(InputWarning, match=r"has mode .*; converted to RGB"):
        image = read_image(name, (4, 4))
    assert image.shape == (1, 3, 4, 4)
    if mode != "1":
        assert float((image - 153 / 255).abs().max()) < 0.03


def test_transparency_is_put_on_white(tmp_path):
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    picture.save(tmp_path / "a.png")
    with pytest.warns(InputWarning, match="transparency on white"):
        image = read_image(tmp_path / "a.png", (1, 2))
    assert image[0, :, 0].T.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_a_rotated_photo_is_turned_upright(tmp_path):
    picture = Image.new("RGB", (4, 2), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 2, 2))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held a quarter turn to the left
    picture.save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png", (4, 2))
    assert image[0, 2, 0, 0] == 1  # blue, which was left, is now at the top
    assert image[0, 0, 3, 0] == 1


def test_another_size_is_resampled_and_said_also_from_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "a.png")
    with pytest.warns(InputWarning, match="1 x 1; resampled to the model's 8 x 8"):
        assert torch.equal(read_image(tmp_path / "a.png", (8, 8)), RED.expand(1, 3, 8, 8))


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(InputWarning, match="mode P"):
        assert torch.equal(read_image(tmp_path / "a.gif", (4, 4)), RED.expand(1, 3, 4, 4))


def test_what_cannot_be_read_is_named(tmp_path):
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.png").write_text("<svg onload='alert(1)'/>")
    (tmp_path / "empty.png").write_bytes(b"")
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "bomb.png").write_bytes(bomb + whole[33:])
    for name in ("cut", "page", "empty", "absent", "bomb"):
        with pytest.raises(InvalidInput, match=rf"{name}\.png"):
            read_image(tmp_path / f"{name}.png", (8, 8))


def test_parts():
    assert [list(part) for part in parts(5, 2)] == [[0, 1], [2, 3], [4]]
    assert [list(part) for part in parts(3, None)] == [[0, 1, 2]]
    assert parts(0, None) == parts(0, 3) == []
