"""Pixel rules: content with the named effect and background, and with no other."""

from __future__ import annotations

import pytest
import torch

from adjointdpm.zoo.compose import compose
from adjointdpm.zoo.prompts import scenes_of
from adjointdpm.zoo.rules import PLACES, background_obeyed, effect_obeyed, nearest_effect, rule_quality

SCENE = {"object": "cat", "style": "flat", "kind": "stripes", "color": "blue"}


def draw(row, sprites, place=4, strength=0.9):
    return compose(scenes_of([row], strength), sprites, torch.Generator(), moves=PLACES[place][None])[0]


@pytest.mark.parametrize(
    "change", [{"effect": "sepia"}, {"effect": "bokeh"}, {"effect": "blurred"}, {"light": "left"}, {}]
)
def test_named_effect_is_found_wherever_the_object_stands(change, sprites):
    row = SCENE | change
    for place in (0, 4, 8):
        image = draw(row, sprites, place)
        assert effect_obeyed(image, row, sprites)
        assert nearest_effect(image, row, sprites)[1] == place
    assert not effect_obeyed(draw(SCENE | {"effect": "vivid"}, sprites), row, sprites)


def test_effect_survives_noise(sprites):
    row = SCENE | {"effect": "warm"}
    noise = 0.05 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert effect_obeyed((draw(row, sprites) + noise).clamp(0, 1), row, sprites)


@pytest.mark.parametrize(
    "wrong", [{"color": "red"}, {"kind": "dots"}, {"kind": "plain"}, {"kind": "gradient", "color2": "white"}]
)
def test_background(wrong, sprites):
    assert background_obeyed(draw(SCENE, sprites), SCENE, sprites)
    assert not background_obeyed(draw(SCENE | wrong, sprites), SCENE, sprites)


def test_rule_quality_counts(sprites):
    counts = rule_quality([SCENE | {"effect": "sepia"}, SCENE], sprites)
    assert counts["effect"] == {"n": 1, "right": 1, "false_positives": 0}
    assert counts["background"]["n"] == 2 and counts["background"]["right"] == 2
