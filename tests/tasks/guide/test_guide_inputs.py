"""Masks, references and sketches that do not fit, and settings that contradict each other."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.tasks.guide.config import WEIGHTS, GuideConfig
from adjointdpm.tasks.guide.inputs import check_box, read_mask, read_reference, read_sketch, read_small

SIZE = (16, 24)  # height, width


def picture(path, values, mode="L", **options):
    Image.fromarray(np.asarray(values, np.uint8)).convert(mode).save(path, **options)
    return path


def half(dtype=np.uint8):
    values = np.zeros(SIZE, dtype)
    values[:, 12:] = 255
    return values


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_mask_is_white_where_it_holds(tmp_path, mode):
    mask = read_mask(picture(tmp_path / "mask.png", half(), mode), SIZE)
    assert mask.shape == SIZE
    assert mask[:, :12].sum() == 0
    assert mask[:, 12:].min() == 1


def test_a_mask_of_sixteen_bits(tmp_path):
    Image.fromarray(half(np.uint16) * 257).save(tmp_path / "deep.png")
    assert float(read_mask(tmp_path / "deep.png", SIZE).mean()) == 0.5


def test_masks_that_say_nothing(tmp_path):
    for name, values, words in (
        ("empty", 0 * half(), "is empty: it has no white pixel"),
        ("full", 0 * half() + 255, "is white all over"),
        ("soft", half() // 2, "is not black and white: 192 of its 384 pixels are gray"),
        ("wrong", np.zeros((8, 8)), "is 8 x 8, the model's image 24 x 16: resize it"),
        ("turned", half().T, "is 16 x 24, the model's image 24 x 16"),
    ):
        with pytest.raises(InvalidInput, match=rf"the mask .*{name}\.png {words}"):
            read_mask(picture(tmp_path / f"{name}.png", values), SIZE)
    picture(tmp_path / "soft.jpg", half() // 3 * 2, quality=30)
    with pytest.raises(InvalidInput, match="Threshold it"):
        read_mask(tmp_path / "soft.jpg", SIZE)
    clear = np.dstack([half()] * 4)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    with pytest.raises(InvalidInput, match="is transparent in 192 of its 384 pixels: expected black and white"):
        read_mask(tmp_path / "clear.png", SIZE)


@pytest.mark.parametrize("read", [read_mask, read_reference, read_sketch, read_small])
def test_files_that_are_no_still_picture(tmp_path, read):
    with pytest.raises(InvalidInput, match=r"absent\.png cannot be read"):
        read(tmp_path / "absent.png", SIZE)
    (tmp_path / "text.png").write_text("<svg/>")
    with pytest.raises(InvalidInput, match=r"text\.png cannot be read"):
        read(tmp_path / "text.png", SIZE)
    whole = picture(tmp_path / "whole.png", half()).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"cut\.png cannot be read"):
        read(tmp_path / "cut.png", SIZE)
    frames = [Image.fromarray(half()), Image.fromarray(255 - half())]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InvalidInput, match=r"moving\.gif is animated \(2 frames\)"):
        read(tmp_path / "moving.gif", SIZE)


def test_a_reference_has_the_size_of_the_image_and_another_mode_is_said(tmp_path):
    colours = np.dstack([half(), half(), 255 - half()])
    path = picture(tmp_path / "fits.png", colours, "RGB")
    image = read_reference(path, SIZE)
    assert image.shape == (1, 3, *SIZE)
    assert image[0, :, 0, 0].tolist() == [0, 0, 1]
    with pytest.raises(InvalidInput, match=r"reference image .*fits\.png is 24 x 16, the model's image 64 x 64"):
        read_reference(path, (64, 64))
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "print.tif")
    with pytest.warns(InputWarning, match="mode CMYK; converted to RGB"):
        converted = read_reference(tmp_path / "print.tif", SIZE)
    assert torch.allclose(converted, image, atol=0.02)


def test_a_photograph_of_a_phone_has_a_second_frame_and_is_no_animation(tmp_path):
    photograph = Image.new("RGB", (SIZE[0], SIZE[1]), (200, 40, 40))  # held on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    preview = Image.new("RGB", (12, 8), (0, 0, 255))
    photograph.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[preview], exif=exif)
    with Image.open(tmp_path / "phone.jpg") as opened:
        assert (opened.format, opened.n_frames) == ("MPO", 2)
    image = read_reference(tmp_path / "phone.jpg", SIZE)
    assert image.shape == (1, 3, *SIZE)
    assert torch.allclose(image[0, :, 8, 12], torch.tensor([200, 40, 40]) / 255, atol=0.03)


def test_a_small_picture_is_smaller_both_ways(tmp_path):
    small = read_small(picture(tmp_path / "small.png", [[0, 255], [255, 0]], "RGB"), SIZE)
    assert small.shape == (1, 3, 2, 2)
    with pytest.raises(InvalidInput, match="must be smaller than the model's 24 x 16 both ways"):
        read_small(picture(tmp_path / "wide.png", np.zeros((4, 24)), "RGB"), SIZE)


def test_a_sketch_may_be_dark_on_light_or_light_on_dark(tmp_path):
    lines = np.full(SIZE, 255)
    lines[4, :] = 0
    dark = read_sketch(picture(tmp_path / "dark.png", lines, "RGB"), SIZE)
    light = read_sketch(picture(tmp_path / "light.png", 255 - lines, "RGB"), SIZE)
    assert torch.equal(dark, light)
    assert dark.sum(dim=1).tolist() == [24.0 if row == 4 else 0.0 for row in range(16)]
    for value in (0, 255):
        with pytest.raises(InvalidInput, match="shows no line"):
            read_sketch(picture(tmp_path / "blank.png", np.full(SIZE, value), "RGB"), SIZE)


def test_a_box_lies_inside_the_image():
    check_box((0, 0, 24, 16), SIZE, "box")
    for box in ((-1, 0, 8, 8), (0, 0, 25, 8), (0, 9, 8, 17), (100, 100, 120, 120)):
        with pytest.raises(InvalidInput, match=r"reaches out of the image of 24 x 16 pixels"):
            check_box(box, SIZE, "box")


def settings(**changes):
    return GuideConfig(**{"out": "run", "prompts": ("cat",), "box": (0, 0, 8, 8)} | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"box": None}, "nothing is asked of the image"),
        ({"box": (8, 0, 8, 8)}, "the box has no area"),
        ({"box": (0, 9, 8, 8)}, "the box has no area"),
        ({"box": (0, 0, float("nan"), 8)}, "finite number"),
        ({"box": (0, 0, 8)}, "Field required"),
        ({"prompts": ()}, "at least 1 item"),
        ({"seeds": ()}, "at least 1 item"),
        ({"seeds": (1, 1)}, "given twice"),
        ({"seeds": (-1,)}, "greater than or equal to 0"),
        ({"size": 0}, "greater than 0"),
        ({"size": 1.0}, "less than 1"),
        ({"color": "reddish"}, "unknown color specifier: 'reddish'"),
        ({"symmetry": "round"}, "left-right, top-bottom, both, half-turn"),
        ({"image": "a.png"}, "`image` needs `keep` (a mask)"),
        ({"image": "a.png", "keep": "b.png", "keep_box": (0, 0, 1, 1)}, "and not both"),
        ({"keep": "b.png"}, "no image is given"),
        ({"mask": "b.png"}, "give one of them"),
        ({"weights": {"bx": 1}}, "no term 'bx'; the terms are 'box', 'mask'"),
        ({"weights": {"box": -1}}, "box=-1: expected a number, 0 or more"),
        ({"weights": {"box": "a"}}, "box=a: expected a number, 0 or more"),
        ({"weights": {"box": float("nan")}}, "box=nan: expected a number, 0 or more"),
        ({"weights": 3}, "valid dictionary"),
        ({"weights": {"box": 0, "collage": 0}}, "weight 0"),
        ({"lr": 0}, "greater than 0"),
        ({"typicality": float("inf")}, "finite number"),
        ({"candidates": 0}, "greater than or equal to 1"),
        ({"optimise": "weights"}, "noise"),
        ({"preset": "paper"}, "the paper has no settings"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense(changes, words):
    with pytest.raises(ValidationError) as caught:
        settings(**changes)
    assert words in str(caught.value)


def test_cases_weights_and_titles():
    config = settings(prompts=("cat", "dog"), seeds=(3, 4), color="#ff8000", weights={"box": 2})
    assert config.cases == (("cat", 3), ("cat", 4), ("dog", 3), ("dog", 4))
    assert (config.weight("box"), config.weight("color")) == (2, WEIGHTS["color"])
    assert config.rgb() == pytest.approx((1, 128 / 255, 0))
    assert config.title == "the object in the box (0, 0, 8, 8), in the colour #ff8000"
    assert config.loop_settings().weight_decay == 0
    assert "out" not in config.identity()


def test_nothing_blended_and_no_other_wording_are_said_by_0_and_by_the_prompt_alone():
    config = {"out": "run", "prompts": ("apple",), "size": 0.3}
    assert (GuideConfig(**config).blend, GuideConfig(**config).phrases) == (None, None)
    said = GuideConfig(**config, blend=(0, 0.5), phrases=("{prompt}", "small {prompt}"))
    assert (said.blend, said.phrases) == ((0.5,), ("small {prompt}",))
    none = GuideConfig(**config, blend=(0,), phrases=("{prompt}",), candidates=1)
    assert (none.blend, none.phrases) == ((), ())
