"""The forms of a classifier's outputs mean the same."""

import types

import pytest
import torch

from adjointdpm.errors import InvalidInput, NonFinite
from adjointdpm.tasks.audit.losses import margin
from adjointdpm.tasks.audit.network import ClassifierUnderAudit
from adjointdpm.tasks.audit.outputs import as_logits, recognise, tensor_of

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (LOGITS, "logits"),
        (LOGITS.softmax(1), "probabilities"),
        (LOGITS.log_softmax(1), "log_probabilities"),
        (torch.tensor([0.3, -2.0]), "one_logit"),
        (torch.tensor([[0.3], [-2.0]]), "one_logit"),
        (torch.tensor([[0.2, 0.3], [0.1, 0.2]]), "logits"),  # within [0, 1], but no probabilities
    ],
)
def test_forms_are_recognised(found, kind):
    assert recognise(found) == kind


@pytest.mark.parametrize("found", [torch.tensor([0.3, 0.9]), torch.tensor([[0.3], [0.9]]), torch.tensor([0.0, 1.0])])
def test_one_output_within_0_and_1_is_asked_for(found):
    with pytest.raises(InvalidInput, match=r"mine returned one value.*'one_probability' or 'one_logit'"):
        recognise(found, "mine")


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_one_probability_means_what_its_logit_means(shape):
    z = torch.tensor([0.3, -2.0])
    found = as_logits(z.sigmoid().reshape(shape), "one_probability")
    for labels in (torch.tensor([0, 1]), torch.tensor([1, 0])):
        assert torch.allclose(margin(found, labels), margin(as_logits(z, "one_logit"), labels), atol=1e-5)


@pytest.mark.parametrize("flat", [True, False])
def test_a_binary_classifier_of_probabilities_has_two_verdicts(flat):
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.1, 0.9)])

    def network(x):
        found = (x.mean(dim=(1, 2, 3)) * 8 - 4).sigmoid()
        return found if flat else found[:, None]

    with pytest.raises(InvalidInput, match="one_probability"):
        ClassifierUnderAudit(network, "mine").probe(images)
    audited = ClassifierUnderAudit(network, "mine", "one_probability")
    audited.probe(images)
    assert audited.classes == 2 and audited.verdict(images).tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["probabilities", "log_probabilities"])
def test_margins_do_not_depend_on_the_form(kind):
    found = LOGITS.softmax(1) if kind == "probabilities" else LOGITS.log_softmax(1)
    labels = torch.tensor([0, 2])
    assert torch.allclose(margin(as_logits(found, kind), labels), margin(LOGITS, labels), atol=1e-5)


def test_one_logit_stands_for_two():
    two = as_logits(torch.tensor([0.3, -2.0]), "one_logit")
    assert torch.equal(two, torch.tensor([[0.0, 0.3], [0.0, -2.0]]))
    assert torch.allclose(two.softmax(1)[:, 1], torch.tensor([0.3, -2.0]).sigmoid())


@pytest.mark.parametrize(
    ("found", "kind", "message"),
    [
        (LOGITS, "one_logit", "3 outputs"),
        (torch.zeros(2), "logits", "at least two classes"),
        (torch.zeros(2, 1), "logits", "at least two classes"),
        (torch.tensor([[-0.1, 1.1]]), "probabilities", "negative"),
        (LOGITS, "one_probability", "3 outputs"),
        (torch.tensor([0.5, 1.5]), "one_probability", r"outside \[0, 1\]"),
        (torch.tensor([[-0.5], [0.5]]), "one_probability", r"outside \[0, 1\]"),
    ],
)
def test_a_form_that_does_not_fit_is_refused(found, kind, message):
    with pytest.raises(InvalidInput, match=message):
        as_logits(found, kind)


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        ("cat", InvalidInput, "returned str"),
        (torch.zeros(3, 4), InvalidInput, r"\(3, 4\) for 2 images"),
        (torch.zeros(2, 3, 4), InvalidInput, r"\(2, 3, 4\) for 2 images"),
        (torch.zeros(2, 3).argmax(1), InvalidInput, "torch.int64"),
        (torch.tensor([[1.0, float("nan")]] * 2), NonFinite, "NaN"),
        (torch.tensor([[1.0, float("inf")]] * 2), NonFinite, "infinite"),
    ],
)
def test_what_is_no_output_is_named(found, error, message):
    with pytest.raises(error, match=message):
        tensor_of(found, "the network", 2)


def test_outputs_are_found_in_the_objects_that_networks_return():
    for found in (types.SimpleNamespace(logits=LOGITS), types.SimpleNamespace(objects=LOGITS), (LOGITS,)):
        assert tensor_of(found, "the network", 2) is LOGITS
