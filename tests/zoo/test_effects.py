"""Effects are differentiable, leave the image alone at strength 0 and stay in [0, 1]."""

from __future__ import annotations

import pytest
import torch

from adjointdpm.zoo import EFFECTS
from adjointdpm.zoo.compose import compose, nameless_effect
from adjointdpm.zoo.draw import draw_color_maps
from adjointdpm.zoo.effects import bokeh, foreground_mask, gaussian_blur, luminance, relight
from adjointdpm.zoo.prompts import scenes_of


@pytest.fixture
def image(sprites):
    rows = [
        {"object": "cat", "style": "flat", "kind": "checks", "color": "blue"},
        {"object": "dog", "style": "3d", "kind": "plain", "color": "red"},
    ]
    return compose(scenes_of(rows), sprites, torch.Generator(), moves=torch.zeros(2, 2, dtype=torch.long))


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_effect(name, image):
    effect = EFFECTS[name]
    assert torch.allclose(effect(image, 0.0), image, atol=0.02)
    x = (0.1 + 0.8 * image).requires_grad_()
    out = effect(x)
    assert out.shape == x.shape and out.min() >= 0 and out.max() <= 1
    assert (out - x).abs().mean() > 0.005
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("name", sorted(set(EFFECTS) - {"bokeh"}))
def test_gradient_in_float64(name):
    x = torch.rand(1, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    assert torch.autograd.gradcheck(lambda v: EFFECTS[name](v, 0.3), x.requires_grad_(), eps=1e-6, atol=1e-5)


def test_strength_per_image(image):
    strength = torch.tensor([0.0, 1.0])
    for name, effect in EFFECTS.items():
        both = effect(image, strength)
        assert torch.allclose(both[1:], effect(image[1:], 1.0), atol=1e-4), name
        assert torch.allclose(both[:1], image[:1], atol=0.02), name


def test_blur_keeps_the_mean_of_a_flat_image():
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(gaussian_blur(flat, 2.0), flat, atol=1e-6)


def test_bokeh_blurs_the_ground_and_not_the_object(image):
    mask = foreground_mask(image)
    assert mask[0, 0, 32, 32] > 0.9 and mask[0, 0, 2, 2] < 0.1
    out = bokeh(image, 1.0)
    edges = lambda x: (x[..., 1:] - x[..., :-1]).abs()  # noqa: E731
    assert edges(out)[0, :, :6].sum() < 0.3 * edges(image)[0, :, :6].sum()
    assert torch.allclose(out[0, :, 30:34, 30:34], image[0, :, 30:34, 30:34], atol=0.05)


def test_relight_is_brightest_at_its_side(image):
    for side, index in {
        "left": (..., slice(0, 8)),
        "right": (..., slice(-8, None)),
        "top": (..., slice(0, 8), slice(None)),
    }.items():
        change = luminance(relight(image, 1.0, side)) - luminance(image)
        assert change[index].mean() > change.mean()
    with pytest.raises(ValueError, match="side must be"):
        relight(image, 1.0, "behind")


def test_nameless_family_contains_the_identity(image):
    identity = torch.eye(3, 4).expand(2, 3, 4)
    assert torch.allclose(nameless_effect(image, identity, identity), image, atol=1e-6)
    maps = draw_color_maps(2, torch.Generator().manual_seed(3))
    out = nameless_effect(image, *maps)
    assert out.min() >= 0 and out.max() <= 1
