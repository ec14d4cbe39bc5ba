"""The object's soft mask: on plain, shaded and patterned backgrounds, at the edge, and a user's own."""

import pytest
import torch

from adjointdpm.errors import InvalidInput, NotDifferentiable
from adjointdpm.tasks.guide.objectives import area, bounding_boxes
from adjointdpm.tasks.guide.saliency import Border, Features, border_plane, check_saliency, load_saliency


def scene(kind="plain", box=(20, 16, 44, 40), side=64):
    """A red square on a background."""
    y = torch.linspace(0, 1, side)[:, None].expand(-1, side)
    if kind == "plain":
        share = torch.zeros(side, side)
    elif kind == "gradient":
        share = y
    else:
        share = ((torch.arange(side) // 8) % 2).float().expand(side, -1)
    blue, green = torch.tensor([0.2, 0.4, 0.9]), torch.tensor([0.3, 0.8, 0.4])
    image = blue.view(3, 1, 1) + share * (green - blue).view(3, 1, 1)
    left, top, right, bottom = box
    image[:, top:bottom, left:right] = torch.tensor([0.9, 0.2, 0.2]).view(3, 1, 1)
    noise = 0.01 * torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    return (image + noise)[None]


class Bands:
    """Stands for a network: smoothed colours at half size, to which thin stripes are one mean colour."""

    def features(self, image):
        pooled = torch.nn.functional.avg_pool2d(image, 16, 4, 6, count_include_pad=False)
        return [image, torch.cat([pooled, pooled.square()], dim=1)]


@pytest.mark.parametrize("kind", ["plain", "gradient"])
@pytest.mark.parametrize("box", [(20, 16, 44, 40), (0, 0, 32, 32), (40, 8, 64, 64)])
def test_the_object_is_found_also_at_the_edge(kind, box):
    image = scene(kind, box)
    mask = Border()(image)
    assert bounding_boxes(mask).tolist() == [list(box)]
    left, top, right, bottom = box
    share = (right - left) * (bottom - top) / 64**2
    assert float(area(mask)) == pytest.approx(share, abs=0.03)
    without = Border().background(image)
    clean = scene(kind, (0, 0, 0, 0))
    assert float((without - clean).abs().max()) < 0.06


def test_nothing_is_found_on_an_empty_background():
    for kind in ("plain", "gradient"):
        assert float(Border()(scene(kind, (0, 0, 0, 0))).max()) < 0.1


def test_the_plane_of_an_exact_plane_is_itself():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 20), indexing="ij")
    maps = torch.stack([0.3 + 0.2 * x - 0.1 * y, 0.5 - 0.4 * y])[None].double()
    assert torch.allclose(border_plane(maps, 2, 0.1), maps, atol=1e-4)


def test_features_see_a_pattern_as_background():
    image = scene("stripes", (20, 16, 44, 40))
    colours, features = Border()(image), Features(Bands(), 1)(image)
    middle, side = (slice(24, 36), slice(24, 36)), (slice(None), slice(0, 12))
    assert float(features[0][middle].mean()) > 0.8
    assert float(features[0][side].mean()) < 0.2 < float(colours[0][side].max())
    with pytest.raises(InvalidInput, match=r"no method features"):
        Features(torch.nn.Identity())


@pytest.mark.parametrize("saliency", [Border(), Features(Bands(), 1)])
def test_masks_have_a_gradient_that_reaches_what_is_far_from_the_background(saliency):
    image = scene()
    check_saliency(saliency, image)
    probe = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(saliency(probe).sum(), probe)
    inside = gradient[0, :, 20:36, 24:40].abs().amax(dim=0)
    assert float(inside.min()) > 1e-4
    away = (image - scene(box=(0, 0, 0, 0)))[..., 20:36, 24:40]  # from the background to the object
    assert float((gradient[..., 20:36, 24:40] * away).sum(dim=1).min()) > 0


def test_an_image_does_not_depend_on_its_neighbours():
    images = torch.cat([scene(), scene("gradient"), scene("plain", (0, 0, 20, 20))])
    for saliency in (Border(), Features(Bands(), 1)):
        alone = torch.cat([saliency(image[None]) for image in images])
        assert torch.allclose(saliency(images), alone, atol=1e-5)


OWN = """
def soft(image): return image.mean(dim=1).clamp(0, 1)
def hard(image): return (image.mean(dim=1) > 0.5).float()
def small(image): return image.mean(dim=(1, 2, 3))
def logits(image): return 10 * image.mean(dim=1)
"""


def test_a_users_own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    image = scene()
    check_saliency(load_saliency(f"{tmp_path}/own.py:soft"), image)
    for name, error, words in (
        ("hard", NotDifferentiable, "a threshold, an argmax"),
        ("small", InvalidInput, r"returned \(1,\); expected a mask of shape \(1, 64, 64\)"),
        ("logits", InvalidInput, "expected a mask within 0 and 1"),
    ):
        with pytest.raises(error, match=words):
            check_saliency(load_saliency(f"{tmp_path}/own.py:{name}"), image)
    with pytest.raises(InvalidInput, match="no saliency 'edges'; expected border, features"):
        load_saliency("edges")
    with pytest.raises(InvalidInput, match="needs a network"):
        load_saliency("features")
    assert isinstance(load_saliency("features", Bands), Features)
