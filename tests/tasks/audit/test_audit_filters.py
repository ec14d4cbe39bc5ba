"""Filters: embedding similarity, functions of a user's own, the food stand-in."""

import types

import pytest
import torch
import torch.nn.functional as F

from adjointdpm.errors import InvalidInput, NotDifferentiable
from adjointdpm.tasks.audit.filters import EmbeddingFilter, FilterUnderAudit, Scores
from adjointdpm.tasks.audit.food import FOOD, OTHER, _threshold
from adjointdpm.zoo.objects import OBJECTS
from tests.tasks.audit.networks import Tiny

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def embedding(images):
    return images.mean(dim=(2, 3))


def filter_of(**changes):
    base = {"concepts": torch.eye(3)[:2], "thresholds": torch.tensor([0.5, 0.6]), "names": ("red", "green")}
    return FilterUnderAudit(EmbeddingFilter(embedding, **base | changes), "colours")


def test_scores_are_cosines_minus_thresholds():
    network = filter_of()
    network.probe(IMAGES)
    found = network.scores(IMAGES)
    cosines = F.normalize(embedding(IMAGES))[:, :2]
    assert torch.allclose(found.concepts, cosines - torch.tensor([0.5, 0.6]))
    assert torch.equal(found.flagged, found.concepts > 0)
    assert network.concepts == ("red", "green")
    assert not found.special_care.any()


def test_what_must_be_left_alone_is_seen_and_has_no_gradient():
    network = filter_of(special_care=torch.tensor([[1.0, 1.0, 1.0]]), special_thresholds=torch.tensor([0.999]))
    images = torch.cat([torch.ones(1, 3, 16, 16), IMAGES[:1] * torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)])
    found = network.scores(images.requires_grad_())
    assert found.special_care.tolist() == [True, False]
    assert found.special_care.grad_fn is None
    scores = network.special_scores(images)  # for hardening alone
    assert scores.requires_grad and ((scores > 0).any(dim=1) == found.special_care).all()
    assert filter_of().special_scores(images).shape == (2, 0)


@pytest.mark.parametrize("flat", [True, False])
def test_a_function_of_ones_own_is_a_filter(flat):
    def scores(images):
        found = embedding(images) - 0.5
        return found[:, 0] if flat else found

    network = FilterUnderAudit(scores, "mine")
    network.probe(IMAGES)
    assert network.scores(IMAGES).concepts.shape == (4, 1 if flat else 3)
    assert len(network.concepts) == (1 if flat else 3)
    assert network.module is None


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x.mean(dim=(1, 2, 3)) > 0.5, NotDifferentiable, "torch.bool"),
        (lambda x: x.mean(dim=(2, 3))[:1], InvalidInput, "expected scores"),
        (lambda x: x.mean(dim=(1, 2, 3)) * float("nan"), InvalidInput, "NaN"),
        (lambda x: x.round().mean(dim=(1, 2, 3)), NotDifferentiable, "round"),
        (lambda x, y: x, InvalidInput, "mine with images of shape .* fails.*missing 1 required"),
        (lambda x: x["a"], InvalidInput, "mine with images of shape .* fails at test_audit_filters.py"),
        (types.SimpleNamespace(scores=embedding), InvalidInput, r"the scores of mine are Tensor .*expected concepts"),
        (types.SimpleNamespace(scores=lambda x: Scores(embedding(x), embedding(x)[:, :1] > 0, torch.zeros(4))),
         InvalidInput, r"flagged \(4, 1\)"),
        (types.SimpleNamespace(scores=lambda x: None), InvalidInput, "the scores of mine are NoneType"),
        (types.SimpleNamespace(scores=lambda x: Scores(embedding(x), embedding(x) > 0, torch.zeros(4) > 0),
                               names=("red",)), InvalidInput, "3 concepts, but 1 names"),
    ],
)  # fmt: skip
def test_functions_that_are_no_filter_are_refused(function, error, message):
    with pytest.raises(error, match=message):
        FilterUnderAudit(function, "mine").probe(IMAGES)


@pytest.mark.parametrize("thing", ["cat", 3, types.SimpleNamespace(scores=3)])
def test_what_cannot_be_called_is_no_filter(thing):
    with pytest.raises(InvalidInput, match="expected a function of images, or an object whose scores"):
        FilterUnderAudit(thing, "mine")


def test_concepts_without_names_are_numbered():
    network = FilterUnderAudit(
        types.SimpleNamespace(scores=lambda x: Scores(embedding(x), embedding(x) > 0, torch.zeros(4) > 0)), "mine"
    )
    network.probe(IMAGES)
    assert network.concepts == ("concept 0", "concept 1", "concept 2")
    assert network.special_scores(IMAGES).shape == (4, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thresholds": torch.zeros(3)}, r"expected \(C, D\) and \(C,\)"),
        ({"names": ("red",)}, "1 names for 2 concepts"),
        ({"concepts": torch.eye(4)[:2]}, r"expected \(4, 4\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InvalidInput, match=message):
        filter_of(**changes).scores(IMAGES)


def test_a_module_is_found_for_hardening():
    module = Tiny()
    assert FilterUnderAudit(EmbeddingFilter(module, torch.eye(5)[:1], torch.zeros(1)), "tiny").module is module


def test_the_food_of_the_stand_in_is_food_and_nothing_else():
    named = [word for group in FOOD.values() for word in group]
    assert len(set(named)) == len(named)
    assert all(OBJECTS[word] == "food" for word in named)
    assert all(OBJECTS[word] != "food" for word in OTHER)


def test_a_threshold_splits_what_can_be_split():
    assert 0.3 < float(_threshold(torch.tensor([0.7, 0.8]), torch.tensor([0.1, 0.3]))) < 0.7
    # one false alarm among ten costs less than a miss among two
    found = float(_threshold(torch.tensor([0.5, 0.9]), torch.tensor([0.6, *([0.1] * 9)])))
    assert 0.1 < found <= 0.5
