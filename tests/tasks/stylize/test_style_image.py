"""Reference images of every kind that people have, and what is refused."""

import io
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.tasks.stylize.style_image import open_style, style_tensor


def pattern(width=40, height=24):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def said(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = open_style(path)
    assert all(w.category is InputWarning for w in caught)
    return picture, " ".join(str(w.message) for w in caught)


def test_an_ordinary_image_is_taken_as_it_is(tmp_path):
    pattern().save(tmp_path / "a.png")
    picture, words = said(tmp_path / "a.png")
    assert words == ""
    assert np.array_equal(np.asarray(picture), np.asarray(pattern()))


def test_the_shorter_side_gets_the_size_and_enlarging_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = style_tensor(pattern(80, 48), 16)
    assert small.shape == (1, 3, 16, 27)
    assert float(small.min()) >= 0
    assert float(small.max()) <= 1
    with pytest.warns(InputWarning, match="40 x 24: enlarged"):
        assert style_tensor(pattern(), 48).shape == (1, 3, 48, 80)


def test_one_pixel_holds_no_style(tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    with pytest.raises(InvalidInput, match=r"dot\.png has 1 x 1 pixels, which hold no texture"):
        open_style(tmp_path / "dot.png")


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [pattern(), Image.new("RGB", (40, 24), "blue")]
    for suffix in ("gif", "webp", "png"):
        file = tmp_path / f"moving.{suffix}"
        options = {"lossless": True} if suffix == "webp" else {}
        frames[0].save(file, save_all=True, append_images=frames[1:], **options)
        picture, words = said(file)
        assert "has 2 frames: the first one is taken" in words
        distance = np.abs(np.asarray(picture, float) - np.asarray(pattern(), float)).mean()
        assert distance < (40 if suffix == "gif" else 1)  # a GIF has 256 colours


def cmyk_profile():
    """A profile for CMYK is nowhere free to copy; sRGB's own lets the plumbing be checked on RGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_cmyk_without_a_profile_is_said_to_be_a_guess(tmp_path):
    pattern().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    picture, words = said(tmp_path / "print.jpg")
    assert picture.mode == "RGB"
    assert "CMYK without a colour profile" in words


def test_cmyk_with_a_profile_goes_through_it(tmp_path, monkeypatch):
    seen = []

    def through(picture, source, target, outputMode):
        seen.append((picture.mode, outputMode))
        return Image.new("RGB", picture.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "profileToProfile", through)
    pattern().convert("CMYK").save(tmp_path / "print.tif", icc_profile=cmyk_profile())
    picture, words = said(tmp_path / "print.tif")
    assert seen == [("CMYK", "RGB")]
    assert "guess" not in words
    assert picture.getpixel((0, 0)) == (1, 2, 3)


def test_a_profile_that_does_not_fit_is_left_out_and_said(tmp_path):
    pattern().convert("CMYK").save(tmp_path / "print.tif", icc_profile=cmyk_profile())
    _, words = said(tmp_path / "print.tif")
    assert "colour profile in" in words
    assert "does not fit" in words
    pattern().save(tmp_path / "broken.png", icc_profile=b"not a profile")
    picture, words = said(tmp_path / "broken.png")
    assert "does not fit" in words
    assert np.array_equal(np.asarray(picture), np.asarray(pattern()))


def test_colours_of_another_space_become_srgb(tmp_path):
    """The profile's tone curve, 2.4, is made 1.0: 128 of 255 is then much more light than in sRGB."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    nearly_linear = srgb.replace(struct.pack(">i", round(2.4 * 65536)), struct.pack(">i", 65536))
    assert nearly_linear != srgb
    gray = pattern()
    gray.paste((128, 128, 128), (0, 0, 20, 24))
    for profile, expected in ((srgb, 128), (nearly_linear, 192)):
        gray.save(tmp_path / "tagged.png", icc_profile=profile)
        picture, words = said(tmp_path / "tagged.png")
        assert words == ""
        assert picture.getpixel((5, 5))[0] == pytest.approx(expected, abs=3)


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    picture, words = said(tmp_path / "deep.png")
    assert words == ""
    assert np.abs(np.asarray(picture)[..., 0].astype(int) - np.round(values / 257).astype(int)).max() == 0
    Image.fromarray(np.linspace(-2, 5, 1024, dtype=np.float32).reshape(32, 32)).save(tmp_path / "real.tif")
    picture, words = said(tmp_path / "real.tif")
    assert "runs from -2 to 5" in words
    assert picture.getpixel((31, 31)) == (255, 255, 255)
    bad = np.zeros((32, 32), np.float32)
    bad[3, 3] = np.nan
    Image.fromarray(bad).save(tmp_path / "nan.tif")
    with pytest.raises(InvalidInput, match="NaN"):
        open_style(tmp_path / "nan.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    picture = pattern().convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 20, 24))
    picture = picture.convert(mode) if mode != "P" else picture.quantize(32)
    picture.save(tmp_path / "clear.png")
    found, words = said(tmp_path / "clear.png")
    assert "transparency" in words
    assert found.getpixel((5, 5)) == (255, 255, 255)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    pattern().save(tmp_path / "turned.png", exif=exif)
    picture, _ = said(tmp_path / "turned.png")
    assert picture.size == (24, 40)
    assert picture.getpixel((23, 0)) == pattern().getpixel((0, 0))


def test_one_colour_and_long_strips_are_said(tmp_path):
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "plain.png")
    assert "is of one colour" in said(tmp_path / "plain.png")[1]
    pattern(400, 20).save(tmp_path / "strip.png")
    picture, words = said(tmp_path / "strip.png")
    assert "strip of 400 x 20" in words
    assert picture.size == (80, 20)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "text.png").write_text("<svg/>")
    buffer = io.BytesIO()
    pattern().save(buffer, format="PNG")
    (tmp_path / "short.png").write_bytes(buffer.getvalue()[:800])
    for name, words in (
        ("absent.png", "there is no style image"),
        ("text.png", "cannot be read"),
        ("short.png", "cannot be read"),
        (".", "is a folder"),
    ):
        with pytest.raises(InvalidInput, match=words):
            open_style(tmp_path / name)


def test_too_large_an_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("adjointdpm.tasks.images.MAX_PIXELS", 500)
    pattern().save(tmp_path / "large.png")
    with pytest.raises(InvalidInput, match="40 x 24 pixels; at most"):
        open_style(tmp_path / "large.png")


def test_gray_images_are_fine(tmp_path):
    pattern().convert("L").save(tmp_path / "gray.png")
    picture, words = said(tmp_path / "gray.png")
    assert words == ""
    assert torch.equal(*style_tensor(picture, 16)[:, :2].unbind(dim=1))
