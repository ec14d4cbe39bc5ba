"""Each of the six checks finds what it is there for."""

import pytest
import torch

from adjointdpm.tasks.audit.sanity import check_outcome, checks_of_network
from adjointdpm.tasks.audit.tally import Tally
from tests.tasks.audit import networks
from tests.tasks.audit.test_audit_tally import row

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NETWORK = networks.tiny()


def gradient_of(network):
    def gradient(images):
        leaf = images.clone().requires_grad_()
        return torch.autograd.grad(network(leaf)[:, 0].sum(), leaf)[0]

    return gradient


def failed(network=NETWORK, kind="logits", classes=5, targeted=False, gradient=None):
    found = checks_of_network(network, gradient or gradient_of(network), IMAGES, kind, classes, targeted)
    assert [c.name for c in found] == ["randomised", "outputs", "zero gradient", "optimisation inside", "classes"]
    return {c.name: c.finding for c in found if not c.passed}


def test_a_plain_network_passes():
    assert failed() == {}
    assert failed(kind=None, classes=0) == {}


@pytest.mark.parametrize("kind", ["probabilities", "one_probability"])
def test_probabilities_are_found(kind):
    assert "returns probabilities" in failed(kind=kind)["outputs"]


def test_randomness_is_found():
    def noisy(images):
        return NETWORK(images) + 0.01 * torch.randn(len(images), 5)

    assert "average over the randomness" in failed(noisy)["randomised"]


def test_probabilities_are_noted():
    assert "audit its logits" in failed(kind="probabilities")["outputs"]


def test_zero_gradients_are_counted():
    def dead(images):
        found = torch.zeros_like(images)
        found[1:] = 1
        return found

    assert "1 of 3" in failed(gradient=dead)["zero gradient"]


def test_a_defence_that_optimises_is_found():
    def purified(images):
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            (pull,) = torch.autograd.grad(NETWORK(leaf).square().sum(), leaf)
        return NETWORK(images - 1e-3 * pull)

    before = torch.autograd.grad
    assert "grad itself" in failed(purified)["optimisation inside"]
    assert torch.autograd.grad is before


@pytest.mark.parametrize(("classes", "targeted", "few"), [(2, False, True), (3, False, False), (3, True, True)])
def test_too_few_classes_for_dlr(classes, targeted, few):
    assert ("classes" in failed(classes=classes, targeted=targeted)) == few


def test_random_draws_that_win_alone_are_masking():
    tally = Tally(3, 96, ("exact", "best_of_n"))
    tally.add([row(0, None), row(1, 2)])
    assert check_outcome(tally).passed
    tally.add([row(None, 1)])
    assert "1 of 3 samples" in check_outcome(tally).finding
    assert not check_outcome(tally).passed
    alone = Tally(3, 96, ("exact",))
    alone.add([row(None, 1)])
    assert check_outcome(alone).passed is None and "left out" in check_outcome(alone).finding
