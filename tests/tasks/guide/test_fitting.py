"""What a configuration leaves open: settled by the pipeline, and anything else found before a picture is painted."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from adjointdpm import zoo
from adjointdpm.errors import InvalidInput
from adjointdpm.formats import read_png_text
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.fitting import BLEND, fitted, image_size, words_for
from adjointdpm.tasks.guide.run import guide_images
from adjointdpm.tasks.painter import Painter
from tests.support.tiny_flux import tiny_flux
from tests.support.tiny_pipeline import tiny_pipeline


def settings(folder, **changes):
    base = {"out": folder / "run", "prompts": ("red apple",), "seeds": (1,), "updates": 1, "steps": 1}
    return GuideConfig(**base | ({"box": (0, 0, 8, 8)} if "box" not in changes else {}) | changes)


def fit(pipe, config):
    painter = Painter(differentiable(pipe), config, wrt=("x_T",))
    return fitted(config, painter, image_size(painter))


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_flux, zoo.emoji])
def test_the_size_of_the_images_is_known_before_any_is_painted(make, tmp_path):
    config = settings(tmp_path)
    painter = Painter(differentiable(make()), config)
    images = painter.paint(*painter.encode(["red apple"]), [0]).image
    calls = painter.network_calls
    assert image_size(painter) == images.shape[-2:]
    assert painter.network_calls == calls


def test_another_model_gets_no_words_and_no_classifier_of_the_embedded_one(tmp_path):
    found = fit(tiny_pipeline(), settings(tmp_path))
    assert (found.optimise, found.blend, found.phrases, found.recogniser) == ("both", BLEND, (), "none")
    flux = fit(tiny_flux(), settings(tmp_path))  # paints no changed embedding
    assert (flux.optimise, flux.blend) == ("noise", BLEND)
    with pytest.raises(InvalidInput, match="takes pooled_prompt_embeds as well"):
        fit(tiny_flux(), settings(tmp_path, optimise="both"))


def test_the_embedded_model_gets_both(tmp_path):
    pipe = zoo.emoji()
    found = fit(pipe, settings(tmp_path, box=(8, 8, 34, 34)))
    assert (found.optimise, found.blend, found.recogniser) == ("both", BLEND, "embedded")
    assert found.phrases == ("small {prompt} at left", "small {prompt} at top", "small {prompt} at top at left")
    off = fit(pipe, settings(tmp_path, recogniser="none", phrases=("{prompt}",), blend=(0,), optimise="noise"))
    assert (off.optimise, off.blend, off.phrases, off.recogniser) == ("noise", (), (), "none")
    assert fit(pipe, settings(tmp_path, prompts=("red apple", "blue"))).recogniser == "none"  # it knows no blue
    assert fit(pipe, settings(tmp_path, candidates=2)).phrases == ("small {prompt} at left",)
    assert fit(pipe, settings(tmp_path, box=None, symmetry="both")).blend == ()
    assert fit(pipe, settings(tmp_path, box=None, sketch="lines.png")).optimise == "noise"
    assert fit(pipe, settings(tmp_path, box=None, sketch="lines.png", optimise="both")).optimise == "both"


def test_a_long_prompt_leaves_no_row_to_optimise_and_no_room_for_further_words(tmp_path):
    pipe, prompt = zoo.emoji(), "red apple on blue background with a red car"
    found = fit(pipe, settings(tmp_path, prompts=(prompt,)))
    assert found.optimise == "both"
    assert found.phrases == ("small {prompt} at left", "small {prompt} at top")
    assert fit(pipe, settings(tmp_path, prompts=(prompt + " red" * 5,))).optimise == "noise"
    with pytest.raises(InvalidInput, match="takes all 16 rows"):
        fit(pipe, settings(tmp_path, prompts=(prompt,), optimise="both", phrases=("{prompt} red red red red red",)))


@pytest.mark.parametrize(
    ("prompt", "place", "words"),
    [
        ("cat", (36, 10, 60, 60), ("{prompt} at right",)),
        ("cat", (16, 16, 48, 48), ("small {prompt}",)),
        ("cat", (4, 4, 60, 60), ()),
        ("small cat", (20, 40, 44, 64), ("{prompt} at bottom",)),
        ("cat at left", (36, 36, 60, 60), ("small {prompt}",)),
    ],
)
def test_the_words_say_where_the_place_is_and_what_the_prompt_does_not(tmp_path, prompt, place, words):
    assert words_for(settings(tmp_path, prompts=(prompt,)), place, (64, 64)) == words


def test_the_words_of_a_size(tmp_path):
    config = settings(tmp_path, box=None, size=0.2)
    assert words_for(config, None, (64, 64)) == ("small {prompt}", "large {prompt}")


def _given(folder):
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(folder / "fits.png")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "small.png")
    return folder / "absent.png", folder / "fits.png", folder / "small.png"


def test_nothing_is_painted_before_everything_is_checked(tmp_path, monkeypatch):
    absent, fits, small = _given(tmp_path)
    generator = differentiable(tiny_pipeline())

    def paint(*arguments):
        raise AssertionError("an image was painted")

    monkeypatch.setattr(Painter, "paint", paint)
    for changes, words in (
        ({"box": (0, 0, 8, 17)}, "reaches out of the image of 16 x 16"),
        ({"box": None, "mask": absent}, "absent.png cannot be read"),
        ({"box": None, "mask": tmp_path}, "cannot be read"),
        ({"box": None, "mask": small}, "is 8 x 8, the model's image 16 x 16"),
        ({"image": fits, "keep": absent}, "absent.png cannot be read"),
        ({"image": fits, "keep_box": (0, 0, 99, 9)}, "reaches out of the image"),
        ({"sketch": absent}, "absent.png cannot be read"),
        ({"low_resolution": fits}, "must be smaller"),
        ({"saliency": "edges"}, "no saliency 'edges'"),
        ({"objective": "colourful"}, "no objective 'colourful'"),
        ({"recogniser": "embedded", "prompts": ("red",)}, "knows no object"),
        ({"box": None, "size": 0.2, "blend": (0.5,)}, "blend needs a wish"),
        ({"optimise": "both", "prompts": ("red " * 20,)}, "takes all 16 rows"),
    ):
        with pytest.raises(InvalidInput, match=words):
            guide_images(settings(tmp_path, **changes), generator)
    assert not (tmp_path / "run").exists()


def test_a_run_records_what_it_settled_and_is_resumed_by_either(tmp_path):
    generator = differentiable(tiny_pipeline(), solver="ab2", spacing="uniform")
    result = guide_images(settings(tmp_path), generator)
    kept = json.loads((result.folder / "run.json").read_text())["config"]
    assert (kept["optimise"], kept["blend"], kept["phrases"], kept["recogniser"]) == ("both", list(BLEND), [], "none")
    (case,) = result.record["results"]["cases"]
    files = [result.folder / case[name] for name in ("image", "noise_file")]
    text = read_png_text(files[0])
    assert "Sampler: " in text and "Solver: ab2, Spacing: uniform" in text
    before = [file.read_bytes() for file in files]
    again = guide_images(settings(tmp_path), generator)
    same = guide_images(GuideConfig(**kept, out=result.folder), generator)
    assert torch.equal(again.noise, result.noise)
    assert torch.equal(same.noise, result.noise)
    assert [file.read_bytes() for file in files] == before
