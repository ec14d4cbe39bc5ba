"""The search: ascending bounds with a warm start, early stop, equal network calls, samples apart."""

from dataclasses import replace

import pytest
import torch

from adjointdpm.tasks.audit.projections import Bound
from adjointdpm.tasks.audit.samples import Sample
from adjointdpm.tasks.audit.search import Budget, climb, draw, generator_of
from adjointdpm.tasks.audit.sources import Look, Scene

SHAPE = (2, 4, 4)
SLOPE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


class Linear:
    """A network whose margin is linear in the noise: sample i changes where slope · δ reaches its limit."""

    name = "exact"

    def __init__(self, limits, cost=3, forward=1, care=()):
        self.limits, self.cost, self.forward, self.care = limits, cost, forward, care
        self.looks = []

    def look(self, scene, x):
        return self._look(scene, x, self.forward, None)

    def climb(self, scene, x):
        return self._look(scene, x, self.cost, SLOPE.expand(x.shape).clone())

    def _look(self, scene, x, calls, gradient):
        self.looks.append(([s.index for s in scene.samples], x.clone(), gradient is not None))
        limits = torch.tensor([self.limits[s.index] for s in scene.samples])
        margin = (SLOPE * (x - scene.noise)).flatten(1).sum(1) - limits
        dropped = torch.tensor([s.index in self.care for s in scene.samples]) & (margin > -limits)
        images = x[:, :1].expand(-1, 3, -1, -1)
        return Look(margin, margin, margin > 0, dropped, images, calls, gradient)


def scene_of(count):
    noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Scene(
        [Sample(i, "a", 10 + i) for i in range(count)], torch.zeros(count, 1, 1), torch.zeros(count, 1, 1), noise
    )


REACH = float(SLOPE.abs().sum())  # the largest slope · δ for τ = 1


def budget_of(source, iterations=4):
    return Budget(iterations * source.cost + source.forward, source.forward, {source.name: source.cost})


def test_each_sample_is_done_at_its_first_bound(settings):
    config = settings(taus=(0.1, 0.2, 0.4), iterations=4, batch_size=None)
    source = Linear([0.05 * REACH, 0.15 * REACH, 0.3 * REACH, 0.9 * REACH])
    found = climb(config, source, scene_of(4), budget_of(source))
    assert [f.tau for f in found] == [0, 1, 2, None]
    assert [len(f.clipped) for f in found] == [1, 2, 3, 3]
    noise = scene_of(4).noise
    for i, f in enumerate(found):
        for k, x in enumerate(f.clipped):
            assert float(Bound("linf", config.taus[k]).excess(x, noise[[i]])) == 0
    assert found[3].margins[-1] == pytest.approx(0.4 * REACH - 0.9 * REACH, rel=1e-3)  # best found is kept
    assert [f.calls for f in found] == sorted(f.calls for f in found)
    assert found[3].calls == 3 * budget_of(source).calls


def test_a_larger_bound_starts_where_the_smaller_one_ended(settings):
    config = settings(taus=(0.1, 0.2), iterations=2, step_size=1.0)
    source = Linear([0.5 * REACH])
    climb(config, source, scene_of(1), budget_of(source, 2))
    first = [x for _, x, _ in source.looks]
    corner = scene_of(1).noise + 0.1 * SLOPE.sign()
    assert torch.allclose(first[1], corner, atol=1e-6)
    assert torch.allclose(first[3], corner, atol=1e-6)  # the first look within 0.2
    assert [graded for _, _, graded in source.looks] == [True, True, False] * 2


@pytest.mark.parametrize(("cost", "steps"), [(3, 4), (6, 2), (1, 12), (20, 0)])
def test_every_method_gets_the_same_number_of_calls(settings, cost, steps):
    config = settings(taus=(0.1,), iterations=4)
    source = Linear([9 * REACH], cost=cost)
    budget = Budget(13, 1, {"exact": cost})
    (found,) = climb(config, source, scene_of(1), budget)
    assert found.calls <= budget.calls
    assert sum(graded for _, _, graded in source.looks) == steps
    assert budget.calls - found.calls < cost


def test_restarts_share_the_calls_and_begin_at_random(settings):
    config = settings(taus=(0.1,), iterations=2, restarts=3)
    source = Linear([9 * REACH])
    (found,) = climb(config, source, scene_of(1), Budget(3 * 7, 1, {"exact": 3}))
    assert found.calls == 3 * 7
    starts = [source.looks[k][1] for k in (0, 3, 6)]
    assert torch.equal(starts[0], scene_of(1).noise)
    assert not torch.equal(starts[1], starts[2])
    assert all(float(Bound("linf", 0.1).excess(x, scene_of(1).noise)) < 1e-6 for x in starts)


def test_samples_that_are_done_are_not_looked_at_again(settings):
    config = settings(taus=(0.1, 0.2), iterations=4)
    source = Linear([0.02 * REACH, 9 * REACH])
    found = climb(config, source, scene_of(2), budget_of(source))
    assert found[0].calls == 2 * source.cost
    assert [who for who, _, _ in source.looks][:3] == [[0, 1], [0, 1], [1]]


def test_a_batch_finds_what_its_samples_find_alone(settings):
    config = settings(taus=(0.1, 0.2, 0.4), iterations=3, restarts=2, optimiser="apgd")
    limits = [0.05 * REACH, 0.17 * REACH, 0.3 * REACH, 0.9 * REACH]
    source = Linear(limits)
    budget = Budget(20, 1, {"exact": 3})
    together, scene = climb(config, source, scene_of(4), budget), scene_of(4)
    for i, f in enumerate(together):
        (alone,) = climb(config, source, scene.rows([i]), budget)
        assert (alone.tau, alone.calls) == (f.tau, f.calls)
        assert torch.equal(torch.cat(alone.clipped), torch.cat(f.clipped))


def test_special_care_ends_the_search_at_once(settings):
    config = settings(taus=(0.1, 0.2), iterations=4)
    source = Linear([0.5 * REACH, 0.5 * REACH], care=(0,))
    found = climb(config, source, scene_of(2), budget_of(source))
    assert [f.dropped for f in found] == [True, False]
    assert found[0].calls == 2 * source.cost and found[0].tau is None
    assert not any(0 in who for who, _, _ in source.looks[2:])
    drawn = draw(config, source, scene_of(2), Budget(20, 1, {}), 4)
    assert drawn[0].dropped and drawn[0].tau is None and not drawn[1].dropped


class Refusing(Linear):
    """The first noise that is looked at alone, after a change of the verdict, has the right verdict after all."""

    refused = False

    def look(self, scene, x):
        found = super().look(scene, x)
        if len(x) > 1 or self.refused:
            return found
        self.refused = True
        return replace(found, changed=torch.tensor([False]), margin=torch.tensor([-1.0]))


@pytest.mark.parametrize("search", ["climb", "draw"])
def test_a_find_that_is_not_confirmed_is_searched_on(settings, search):
    config = settings(taus=(0.1, 0.2), iterations=4)
    source = Refusing([0.01 * REACH] if search == "climb" else [-1.0])  # a limit that any draw is beyond
    if search == "climb":
        (found,) = climb(config, source, scene_of(1), budget_of(source))
        assert found.margins[0] == -1.0 and found.margins[1] > 0
        assert found.calls == 3 * source.cost  # two looks within 0.1, one within 0.2; none for the confirmations
    else:
        (found,) = draw(config, source, scene_of(1), Budget(2, 1, {}), 2)
        assert found.calls == 2  # the next draw within the same bound
    assert source.refused
    assert found.tau == (1 if search == "climb" else 0)
    assert found.image is not None


def test_best_of_n_draws_as_many_as_the_calls_allow(settings):
    config = settings(taus=(0.1, 0.2))
    source = Linear([9 * REACH])
    (found,) = draw(config, source, scene_of(1), Budget(13, 1, {}), 5)
    assert found.calls == 26 and found.tau is None
    points = torch.cat([x for _, x, _ in source.looks])
    assert len(points) == 26 and len({tuple(p.flatten().tolist()) for p in points}) == 26
    delta = points - scene_of(1).noise
    assert torch.allclose(delta[:13].abs(), torch.full_like(delta[:13], 0.1), atol=1e-6)
    best = max(float((SLOPE * d).sum()) for d in delta)
    assert found.margins[-1] == pytest.approx(best - 9 * REACH, rel=1e-4)


def test_draws_do_not_depend_on_how_many_are_made_at_once(settings):
    config = settings(taus=(0.1, 0.2))
    near = Linear([0.0])
    drawn = [draw(config, near, scene_of(1), Budget(13, 1, {}), at_once)[0] for at_once in (1, 5, 13)]
    assert len({(f.tau, f.calls) for f in drawn}) == 1
    assert all(torch.equal(f.clipped[0], drawn[0].clipped[0]) for f in drawn)


def test_random_numbers_belong_to_the_sample_and_the_purpose():
    def numbers(sample, purpose):
        return torch.rand(3, generator=generator_of(sample, purpose)).tolist()

    a, b = Sample(0, "cat", 5), Sample(1, "cat", 6)
    assert numbers(a, "x") == numbers(Sample(0, "cat", 5), "x")
    assert numbers(a, "x") != numbers(b, "x") and numbers(a, "x") != numbers(a, "y")
