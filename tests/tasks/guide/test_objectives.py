"""Each objective alone: zero where the wish is met, worse where it is not, and a gradient that finite differences agree
with."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.guide import objectives as ask
from adjointdpm.tasks.guide.objectives.color import object_color
from adjointdpm.tasks.guide.objectives.placement import center

BOX = (2.0, 3.0, 10.0, 13.0)


def square(left, top, right, bottom, side=16):
    return ask.box_mask((left, top, right, bottom), side, side)[None].double()


def noisy(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_box_covers_its_pixels_and_shares_of_those_at_its_edge():
    mask = ask.box_mask((1.5, 0, 3, 2), 4, 4)
    assert mask.tolist() == [[0, 0.5, 1, 0], [0, 0.5, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert float(ask.box_mask((0.25, 0.5, 3.75, 2), 4, 4).sum()) == pytest.approx(3.5 * 1.5)


def test_the_box_loss_is_least_in_the_box_and_grows_with_the_distance():
    inside = float(ask.box_loss(square(*BOX), BOX))
    assert inside < 0.02  # the smooth maximum is not quite the maximum
    shifted = [float(ask.box_loss(square(2 + d, 3, 10 + d, 13), BOX)) for d in (0, 1, 2, 4, 6)]
    assert shifted == sorted(shifted)
    grown = [float(ask.box_loss(square(2 - d, 3 - d, 10 + d, 13 + d), BOX)) for d in (0, 1, 2)]
    assert grown == sorted(grown)
    assert grown[1] > 2 * inside


def test_an_object_that_fills_the_box_in_both_directions_fits_it_whatever_its_shape():
    diagonal = torch.zeros(1, 16, 16, dtype=torch.float64)
    for i in range(8):
        diagonal[0, 3 + i : 6 + i, 2 + i] = 1
    filled = square(*BOX)
    assert float(ask.box_loss(diagonal, BOX)) < 0.02 + float(ask.box_loss(filled, BOX)) + 0.05
    assert float(ask.mask_loss(diagonal, filled[0])) > 0.3
    assert float(ask.mask_loss(filled, filled[0])) < 1e-6


def test_the_pull_reaches_an_object_that_does_not_touch_the_box():
    mask = square(11, 0, 16, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(ask.box_loss(mask, (0, 11, 5, 16)).sum(), mask)
    assert float(gradient[0, 14, 1]) < 0 < float(gradient[0, 1, 14])  # more object at the box, less where it is
    assert center(square(0, 0, 8, 16)).tolist() == [[0.25, 0.5]]


def test_bounding_boxes_and_overlaps():
    masks = torch.cat([square(*BOX), square(3, 3, 11, 13), torch.zeros(1, 16, 16, dtype=torch.float64)])
    boxes = ask.bounding_boxes(masks)
    assert boxes.tolist() == [list(BOX), [3, 3, 11, 13], [0, 0, 0, 0]]
    assert ask.box_iou(boxes, BOX).tolist() == pytest.approx([1, 7 / 9, 0])
    assert ask.mask_iou(masks, square(*BOX)[0]).tolist() == pytest.approx([1, 7 / 9, 0])


def test_size_counts_half_and_double_alike():
    quarter = square(0, 0, 8, 8)
    assert float(ask.area(quarter)) == 0.25
    assert float(ask.size_loss(quarter, 0.25)) == 0
    half, double = (float(ask.size_loss(quarter, share)) for share in (0.5, 0.125))
    assert half == pytest.approx(double, rel=0.02)
    assert half == pytest.approx(math.log(2) ** 2, rel=0.02)
    assert math.isfinite(float(ask.size_loss(0 * quarter, 0.25)))


def test_colour_is_that_of_the_object_and_leaves_the_mask_alone():
    image = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    image[:, :, 3:13, 2:10] = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    mask = square(*BOX).requires_grad_()
    assert object_color(image, mask)[0].tolist() == [1, 0.5, 0]
    assert float(ask.color_loss(image, mask, (1, 0.5, 0))) == 0
    assert float(ask.color_difference(image, mask, (0, 0, 0))) == pytest.approx(255 * math.sqrt(1.25 / 3))
    image.requires_grad_()
    into_image, into_mask = torch.autograd.grad(
        ask.color_loss(image, mask, (0, 0, 0)).sum(), (image, mask), allow_unused=True
    )
    assert into_mask is None
    assert bool(into_image[0, :, 5, 5].any()) and not bool(into_image[0, :, 0, 0].any())


@pytest.mark.parametrize(
    ("kind", "turned"),
    [
        ("left-right", lambda x: x.flip(-1)),
        ("top-bottom", lambda x: x.flip(-2)),
        ("half-turn", lambda x: x.flip(-1, -2)),
    ],
)
def test_symmetry(kind, turned):
    image = noisy(2, 3, 8, 8)
    assert ask.symmetry_loss((image + turned(image)) / 2, kind).tolist() == [0, 0]
    assert float(ask.symmetry_loss(image, kind).min()) > 0.01
    with pytest.raises(InvalidInput, match="left-right, top-bottom"):
        ask.symmetry_loss(image, "round")


def test_both_mirrors():
    image = noisy(1, 3, 8, 8)
    both = (image + image.flip(-1) + image.flip(-2) + image.flip(-1, -2)) / 4
    assert float(ask.symmetry_loss(both, "both")) < 1e-30
    assert float(ask.symmetry_loss((image + image.flip(-1)) / 2, "both")) > 0.01


def test_a_region_counts_its_own_pixels_alone():
    reference, keep = noisy(1, 3, 8, 8), ask.box_mask((0, 0, 4, 8), 8, 8)
    image = reference.clone()
    image[..., 4:] = 0
    assert float(ask.region_loss(image, reference, keep)) == 0
    image[..., :4] += 0.1
    assert float(ask.region_loss(image, reference, keep)) == pytest.approx(0.01)
    assert float(ask.psnr(ask.region_loss(image, reference, keep))) == pytest.approx(20)


def test_low_resolution_sees_means_over_areas():
    image = noisy(1, 3, 8, 12)
    small = ask.reduced(image, 2, 3)
    assert float(small[0, 1, 1, 2]) == pytest.approx(float(image[0, 1, 4:, 8:].mean()))
    assert float(ask.low_resolution_loss(image, small)) == 0
    detail = image + torch.tensor([1.0, -1.0]).repeat(6) * 0.1  # pairs of columns cancel within each area
    assert float(ask.low_resolution_loss(detail, small)) < 1e-30


def test_a_sketch_wants_edges_on_its_lines_and_nowhere_else():
    image = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    image[:, 0, 8:24, 8:24] = 1
    lines = torch.zeros(32, 32, dtype=torch.float64)
    for edge in (7, 8, 23, 24):
        lines[7:25, edge] = lines[edge, 7:25] = 1
    drawn = ask.line_strength(lines, 1.0)
    fits = float(ask.sketch_loss(image, drawn, 1.0))
    moved = float(ask.sketch_loss(image.roll(4, -1), drawn, 1.0))
    assert fits < 0.05 < 0.3 < moved
    faint = float(ask.sketch_loss(0.3 * image, drawn, 1.0))
    assert faint < 0.1  # where the edges are counts, not how strong
    assert float(ask.edges(torch.ones(1, 3, 8, 8)).max()) == 0


def test_the_collage_moves_and_scales_the_object_and_keeps_its_proportions():
    background = torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)
    image = background.clone()
    image[:, 0, 4:12, 4:20] = 1  # 16 wide, 8 high
    mask = ask.box_mask((4, 4, 20, 12), 32, 32)[None].double()
    pasted, moved = ask.collage(image, mask, background, (20, 16, 28, 32))
    assert ask.bounding_boxes(moved).tolist() == [[20, 22, 28, 26]]  # as wide as the box, in its middle
    assert float(pasted[0, 0, 24, 24]) == pytest.approx(1)
    assert float((pasted - background)[0, :, :20].abs().max()) == 0
    whole, _ = ask.collage(image, 0 * mask, background, (0, 0, 32, 32))
    assert torch.allclose(whole, background)


@pytest.mark.parametrize(
    "loss",
    [
        lambda image, mask: ask.box_loss(mask, BOX),
        lambda image, mask: ask.mask_loss(mask, ask.box_mask(BOX, 16, 16)),
        lambda image, mask: ask.size_loss(mask, 0.3),
        lambda image, mask: ask.color_loss(image, mask, (0.9, 0.1, 0.2)),
        lambda image, mask: ask.symmetry_loss(image, "both"),
        lambda image, mask: ask.region_loss(image, 0 * image + 0.5, ask.box_mask(BOX, 16, 16)),
        lambda image, mask: ask.low_resolution_loss(image, torch.full((1, 3, 3, 5), 0.5)),
        lambda image, mask: ask.sketch_loss(image, ask.line_strength(ask.box_mask(BOX, 16, 16), 1.0), 1.0),
    ],
    ids=["box", "mask", "size", "color", "symmetry", "region", "low_resolution", "sketch"],
)
def test_gradients_and_one_number_an_image(loss):
    image, mask = noisy(2, 3, 16, 16), noisy(2, 16, 16, seed=1)
    values = loss(image, mask)
    assert values.shape == (2,)
    assert float(values.min()) > 0
    alone = torch.cat([loss(image[i : i + 1], mask[i : i + 1]) for i in (0, 1)])
    assert torch.allclose(alone, values)
    into_image = image.clone().requires_grad_()
    if loss(into_image, mask).requires_grad:
        assert gradcheck(lambda x: loss(x, mask), into_image, fast_mode=True)
    into_mask = mask.clone().requires_grad_()
    if loss(image, into_mask).requires_grad:
        assert gradcheck(lambda m: loss(image, m), into_mask, fast_mode=True)


def test_the_collage_loss_is_not_made_smaller_by_fading():
    ground = torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)
    here, there = ground.clone(), ground.clone()
    here[..., 4:12, 4:12] = there[..., 20:28, 20:28] = 0.9
    half_way = 0.5 * here + 0.5 * ground
    away, faded = (float(ask.collage_loss(image, ground, there, ground)) for image in (here, half_way))
    assert float((half_way - there).square().mean()) < 0.7 * float((here - there).square().mean())
    assert faded > 0.97 * away > 0.9
    assert float(ask.collage_loss(there, ground, there, ground)) == pytest.approx(0, abs=1e-9)
    paler = float(ask.collage_loss(0.5 * there + 0.5 * ground, ground, there, ground))
    assert 0 < paler < 0.02  # in its place, a little pale
