"""Losses grow towards another verdict, and the margins tell when it is there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.audit.losses import below_threshold, changed, classifier_loss, enough_classes, margin

LOGITS = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.5, 2.0, 1.5, -4.0]])
LABELS = torch.tensor([0, 2])
TARGET = torch.tensor([1, 3])


def test_values_by_hand():
    assert margin(LOGITS, LABELS).tolist() == [-2.0, 0.5]
    assert margin(LOGITS, LABELS, TARGET).tolist() == [-2.0, -6.0]
    cross = classifier_loss("cross_entropy", LOGITS, LABELS)
    assert torch.allclose(cross, -LOGITS.log_softmax(1)[[0, 1], LABELS])
    targeted = classifier_loss("cross_entropy", LOGITS, LABELS, TARGET)
    assert torch.allclose(targeted, LOGITS.log_softmax(1)[[0, 1], TARGET])
    # (z_y - largest other) / (largest - third), negated
    assert classifier_loss("dlr", LOGITS, LABELS).tolist() == pytest.approx([-2 / 3, 0.5 / 1.5])
    # (z_t - z_y) / (largest - mean of third and fourth)
    assert classifier_loss("dlr", LOGITS, LABELS, TARGET).tolist() == pytest.approx([-2 / 3.5, -5.5 / 3.75])
    assert below_threshold(torch.tensor([[-0.2, 0.1], [-0.3, -0.1]])).tolist() == pytest.approx([-0.1, 0.1])


numbers = st.floats(-20, 20, width=32).map(lambda v: round(v, 3))


@given(st.lists(numbers, min_size=4, max_size=4, unique=True), st.integers(0, 3), st.integers(0, 3))
def test_the_margin_is_above_zero_exactly_where_the_verdict_has_changed(values, label, target):
    logits, labels = torch.tensor([values]), torch.tensor([label])
    verdict = int(logits.argmax())
    assert bool(changed(logits, labels)) == (verdict != label) == bool(margin(logits, labels) > 0)
    wanted = torch.tensor([target])
    assert bool(changed(logits, labels, wanted)) == (verdict == target) == bool(margin(logits, labels, wanted) > 0)
    assert bool(classifier_loss("dlr", logits, labels) > 0) == (verdict != label)


@given(st.lists(numbers, min_size=4, max_size=4, unique=True), st.floats(0.1, 50))
def test_dlr_does_not_see_the_scale_of_the_logits(values, scale):
    logits, labels = torch.tensor([values], dtype=torch.double), torch.tensor([0])
    for target in (None, torch.tensor([1])):
        one, many = (classifier_loss("dlr", logits * s, labels, target) for s in (1.0, scale))
        assert torch.allclose(one, many, rtol=1e-6, atol=1e-9)


def test_a_tie_is_no_change():
    assert not bool(changed(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([1])))


def test_dlr_needs_enough_classes():
    assert [enough_classes(k, False) for k in (2, 3)] == [False, True]
    assert [enough_classes(k, True) for k in (3, 4)] == [False, True]
    with pytest.raises(InvalidInput, match="at least 3 classes, the network has 2"):
        classifier_loss("dlr", torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(InvalidInput, match="not for a classifier"):
        classifier_loss("cosine", LOGITS, LABELS)


@pytest.mark.parametrize("name", ["margin", "cross_entropy", "dlr"])
@pytest.mark.parametrize("target", [None, TARGET])
def test_climbing_a_loss_raises_it_for_each_image_apart(name, target):
    logits = LOGITS.clone().requires_grad_()
    loss = classifier_loss(name, logits, LABELS, target)
    (gradient,) = torch.autograd.grad(loss[0], logits)
    assert not gradient[1].any()
    better = classifier_loss(name, logits.detach() + 1e-2 * gradient, LABELS, target)
    assert better[0] > loss[0]
