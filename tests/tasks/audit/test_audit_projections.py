"""Every point is put within its bound, and where it is nearest."""

import math

import pytest
import torch

from adjointdpm.tasks.audit.projections import Bound

CENTER = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
NORMS = ("linf", "l2", "shell")


def size(x):
    return x.double().flatten(1).norm(dim=1)


def points(scale=1.0, seed=1):
    return CENTER + scale * torch.randn(CENTER.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tau", [0.01, 0.3, 1.3])
@pytest.mark.parametrize("scale", [1e-6, 0.2, 5.0])
def test_projected_points_are_within_and_stay_where_they_are(norm, tau, scale):
    bound = Bound(norm, tau)
    x = bound.project(points(scale), CENTER)
    assert float(bound.excess(x, CENTER).max()) < 1e-4
    assert torch.allclose(bound.project(x, CENTER), x, atol=2e-5)
    if norm == "shell":
        assert torch.allclose(size(x), size(CENTER), rtol=1e-5)
        assert float((size(x - CENTER) / math.sqrt(256)).max()) <= tau * (1 + 1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_within_are_left_alone(norm):
    bound = Bound(norm, 0.5)
    x = CENTER + 0.3 * torch.rand(CENTER.shape, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(bound.project(x, CENTER), x, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_no_other_point_of_the_bound_is_nearer(norm):
    bound, x = Bound(norm, 0.4), points(1.5)
    nearest = bound.project(x, CENTER)
    for seed in range(30):
        rival = bound.draw(CENTER[:1], torch.Generator().manual_seed(seed), corner=seed % 2 == 0)
        near = bound.project(nearest[:1] + 0.05 * (rival - nearest[:1]), CENTER[:1])
        for other in (rival, near):
            assert float(size(nearest[:1] - x[:1])) <= float(size(other - x[:1])) + 1e-4


def test_an_l2_bound_contains_the_linf_bound_of_the_same_tau():
    corner = Bound("linf", 0.3).draw(CENTER[:1], torch.Generator().manual_seed(0), corner=True)
    assert float(Bound("l2", 0.3).excess(corner, CENTER[:1])) < 1e-6


def test_the_whole_sphere_is_within_two_radii():
    bound, center = Bound("shell", 2.0), CENTER * (15.9 / size(CENTER)).float().reshape(3, 1, 1, 1)
    assert torch.allclose(bound.project(-center, center), -center, atol=1e-3)


@pytest.mark.parametrize("tau", [0.1, 0.2, 0.7, 1e-3])
def test_enforced_points_are_within_to_the_last_digit(tau):
    x = Bound("linf", tau).enforce(points(3.0), CENTER)
    assert float((x.double() - CENTER.double()).abs().max()) <= tau
    assert float((x.double() - CENTER.double()).abs().max()) > tau * (1 - 1e-4)
    y = Bound("l2", tau).enforce(points(3.0), CENTER)
    assert float(size(y - CENTER).max()) <= tau * math.sqrt(256)


@pytest.mark.parametrize("norm", NORMS)
def test_draws_are_within_reproducible_and_corners_at_the_edge(norm):
    bound = Bound(norm, 0.4)

    def draw(seed, corner=False):
        return bound.draw(CENTER[:1], torch.Generator().manual_seed(seed), corner)

    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))
    for seed in range(10, 15):
        assert float(bound.excess(draw(seed), CENTER[:1])) < 1e-4
        reached = float(size(draw(seed, True) - CENTER[:1])) / math.sqrt(256)
        assert reached == pytest.approx(0.4, rel=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_climbs_and_has_its_length(norm):
    bound, gradient = Bound(norm, 0.4), points(seed=5) - CENTER
    step = bound.step(gradient, 0.25)
    assert float((step * gradient).sum()) > 0
    length = step.abs().flatten(1).amax(1) if norm == "linf" else size(step) / math.sqrt(256)
    assert torch.allclose(length.double(), torch.full((3,), 0.1).double(), rtol=1e-5)
    assert not bool(bound.step(torch.zeros_like(gradient), 1.0).any())


@pytest.mark.parametrize("norm", ["l2", "shell"])
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float16, 3e4), (torch.float16, 1e-7), (torch.float32, 1e30), (torch.float32, 1e-30)]
)
def test_a_step_has_its_length_whatever_the_size_of_the_gradient(norm, dtype, scale):
    direction = torch.ones(2, 4, 8, 8)
    direction[:, 2:] = -1
    step = Bound(norm, 0.4).step((scale * direction).to(dtype), 0.25)
    assert step.dtype == torch.float32
    assert torch.allclose(step, 0.1 * direction, rtol=1e-4)
    assert not bool(Bound(norm, 0.4).step(torch.zeros(2, 4, 8, 8, dtype=dtype), 1.0).any())  # nor NaN
