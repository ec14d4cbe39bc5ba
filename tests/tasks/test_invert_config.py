"""Settings of an inversion: what is refused, and before what."""

import pytest
from pydantic import ValidationError

from adjointdpm.tasks import InvertConfig


def config(**changes):
    return InvertConfig(**{"out": "x", "prompts": ("cat",), "effect": "sepia"} | changes)


def test_pairs():
    assert config(seeds=(1, 2)).pairs == (("cat", 1), ("cat", 2))
    assert config(prompts=("cat", "dog"), seeds=(7,)).pairs == (("cat", 7), ("dog", 7))
    assert config(prompts=("cat", "dog"), seeds=(7, 8)).pairs == (("cat", 7), ("dog", 8))


def test_the_papers_preset_gives_way_to_what_is_given():
    paper = config(preset="paper")
    assert (paper.variant, paper.lr_schedule, paper.loop_settings().lr, paper.epochs) == ("fill", "constant", 0.1, 50)
    assert config(preset="paper", epochs=3, variant="tail").epochs == 3
    assert config(preset="paper", epochs=3, variant="tail").variant == "tail"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"effect": None}, "exactly one of `effect`, `target_images` and `target_words`; got 0"),
        ({"target_words": "sepia"}, "got 2"),
        ({"prompts": ("a", "b"), "seeds": (1, 2, 3)}, "2 prompts and 3 seeds cannot be paired"),
        ({"effect": None, "target_images": ("a.png",), "seeds": (1, 2)}, "1 target images for 2 pairs"),
        (
            {"effect": None, "target_words": "3d", "effect_options": {"strength": 1}},
            "`effect_options` are for `effect`",
        ),
        ({"effect": None, "target_words": "{prompt} "}, "holds no word"),
        ({"pairs_per_step": 3, "seeds": (1, 2)}, "pairs_per_step=3, but there are 2 pairs"),
        ({"token": "my token"}, "one word without spaces"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"steps": 2.5}, "valid integer"),
        ({"lr": float("nan")}, "finite"),
        ({"lr": -0.1}, "greater than 0"),
        ({"guidance_scale": float("inf")}, "finite"),
        ({"prompts": ()}, "at least 1"),
        ({"seeds": (-1,)}, "greater than or equal to 0"),
        ({"epoch": 5}, "Extra inputs are not permitted"),
        ({"space": "pixel"}, "'prompt' or 'token'"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        config(**changes)


def test_it_is_frozen_and_json():
    settings = config(effect_options={"strength": 0.5})
    with pytest.raises(ValidationError, match="frozen"):
        settings.epochs = 3
    assert InvertConfig.model_validate_json(settings.model_dump_json()) == settings
    assert "out" not in settings.identity()
