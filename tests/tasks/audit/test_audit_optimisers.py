"""Climbers reach what can be reached, within the bound, row by row."""

import itertools
import math

import pytest
import torch

from adjointdpm.tasks.audit.optimisers import _checkpoints, make_climber
from adjointdpm.tasks.audit.projections import Bound

NAMES = ("sign", "adam", "apgd")
CENTER = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
SLOPE = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def linear(x, rows=slice(None)):
    return (SLOPE[rows] * (x - CENTER[rows])).flatten(1).sum(1), SLOPE[rows]


def bent(x, rows=slice(None)):
    """Concave, its top at a place of its own for each row, with a scale of 100 between directions."""
    weight = torch.logspace(-1, 1, 32, dtype=torch.double).reshape(2, 4, 4)
    away = x - CENTER[rows] - 0.1 * SLOPE[rows]
    return -(weight * away.square()).flatten(1).sum(1), -2 * weight * away


def climb(name, function, bound, steps, rows=slice(None), length=None):
    length = length or (2.0 if name == "apgd" else 0.25)
    x = CENTER[rows].clone()
    climber = make_climber(name, bound, CENTER[rows], length, steps)
    best = function(x, rows)[0]
    for _ in range(steps):
        loss, gradient = function(x, rows)
        x = climber.step(x, gradient, loss)
        best = torch.maximum(best, function(x, rows)[0])
        assert float(bound.excess(x, CENTER[rows]).max()) < 1e-6
    return best


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_loss_is_driven_to_the_edge(name, norm):
    bound = Bound(norm, 0.3)
    flat = SLOPE.flatten(1)
    most = 0.3 * flat.abs().sum(1) if norm == "linf" else 0.3 * math.sqrt(32) * flat.norm(dim=1)
    share = 0.75 if (name, norm) == ("adam", "l2") else 0.999  # Adam's direction is nearer to the signs
    assert bool((climb(name, linear, bound, 40) >= share * most).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_top_within_the_bound_is_found(name):
    start = bent(CENTER)[0]
    best = climb(name, bent, Bound("linf", 0.5), 80, length={"sign": 0.02, "adam": 0.05}.get(name))
    assert bool((best > 0.06 * start).all())  # 0 is the top


def test_apgd_halves_its_step_where_a_fixed_one_cannot_settle():
    start = bent(CENTER)[0]
    fixed = climb("sign", bent, Bound("linf", 0.5), 80, length=1.0)
    controlled = climb("apgd", bent, Bound("linf", 0.5), 80)
    assert bool((controlled > fixed).all())
    assert bool((controlled > 0.06 * start).all())


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_each_other(name):
    bound = Bound("linf", 0.5)
    together = climb(name, bent, bound, 12)
    alone = torch.cat([climb(name, bent, bound, 12, slice(i, i + 1)) for i in range(3)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_done_are_dropped_and_the_others_go_on_as_before(name):
    bound, steps = Bound("linf", 0.5), 12
    ends = []
    for dropping in (False, True):
        x, rows = CENTER.clone(), torch.arange(3)
        climber = make_climber(name, bound, CENTER, 0.5, steps)
        for step in range(steps):
            loss, gradient = bent(x, rows)
            x = climber.step(x, gradient, loss)
            if dropping and step == 4:
                kept = torch.tensor([0, 2])
                climber.keep(kept)
                x, rows = x[kept], kept
        ends.append(x if dropping else x[[0, 2]])
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradients_scale_does_not_matter(name):
    def scaled(x, rows=slice(None)):
        loss, gradient = bent(x, rows)
        return loss, 1e-9 * gradient

    bound = Bound("linf", 0.5)
    assert torch.allclose(climb(name, scaled, bound, 10), climb(name, bent, bound, 10), rtol=1e-4)


def test_checkpoints_come_closer_and_lie_within_the_iterations():
    found = sorted(_checkpoints(100))
    assert found[0] == 22 and found[-1] < 100
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] == 6
    assert _checkpoints(1) <= {1}
