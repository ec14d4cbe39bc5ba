"""A step that lets no gradient through is named, with the line that it is on."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from adjointdpm.errors import InvalidInput, NotDifferentiable
from adjointdpm.tasks.audit.network import ClassifierUnderAudit
from adjointdpm.tasks.audit.responsible import local_only
from adjointdpm.tasks.audit.stops import find_stop
from tests.tasks.audit import networks

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def audited(step):
    return ClassifierUnderAudit(networks.tiny(), "tiny", steps=[(f"networks:{step.__name__}", step)])


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (networks.eight_bits, r"Tensor\.to \(networks\.py:\d+\) returns torch\.uint8"),
        (networks.rounds, r"round \(networks\.py:\d+\) has a gradient of zero everywhere"),
        (networks.through_numpy, r"Tensor\.detach \(networks\.py:\d+\) returns a tensor without a gradient"),
        (networks.asks_numpy, r"networks\.py:\d+ \(return torch\.from_numpy.*leaves torch"),
        (networks.no_grad, r"runs under torch\.no_grad"),
    ],
)
def test_the_preprocessing_step_and_its_line_are_named(step, named):
    with pytest.raises(NotDifferentiable, match=f"(?s)networks:{step.__name__}.*{named}"):
        audited(step).probe(IMAGES)


@pytest.mark.parametrize("step", [networks.halves, networks.looks_aside])
def test_steps_with_a_gradient_pass(step):
    network = audited(step)
    network.probe(IMAGES)
    assert (network.kind, network.classes) == ("logits", networks.CLASSES)


def test_a_step_within_the_network_is_named():
    def network(images):
        return networks.tiny()(networks.eight_bits(images))

    with pytest.raises(NotDifferentiable, match=r"Tensor\.to \(networks\.py"):
        ClassifierUnderAudit(network, "mine").probe(IMAGES)


def test_only_stops_on_the_way_to_the_output_are_blamed():
    def network(images):
        aside = (images > 0.5).float().mean()  # loses a gradient that nobody needs
        return torch.floor(images).mean(dim=(2, 3)) + 0 * aside

    stop = find_stop(network, IMAGES, zero=True)
    assert stop is not None and stop.function == "floor"

    def cut(images):
        aside = images.detach().mean()
        images.sign().mean()  # its gradient is nobody's
        return (images * 2).argmax(dim=1).float().mean(dim=(1, 2)) if aside > -1 else aside

    stop = find_stop(cut, IMAGES, zero=False)
    assert stop is not None and stop.function == "Tensor.argmax"


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (lambda x: x.new_zeros(len(x), 3), NotDifferentiable, "no gradient"),
        (lambda x: torch.zeros(1, 3), InvalidInput, r"\(1, 3\) for 2 images"),
        (lambda x: x.sum(dim=(1, 2, 3)).reshape(-1, 1) @ torch.full((1, 3), float("nan")), InvalidInput, "NaN"),
        (lambda x: torch.zeros(7)[x], InvalidInput, "fails"),
        (lambda x: {"a": 1}, InvalidInput, "returned dict"),
        (lambda x: x.mean(dim=(1, 2, 3)).argmax().float().expand(len(x)), NotDifferentiable, "argmax"),
    ],
)
def test_networks_that_cannot_be_audited_are_refused(network, error, message):
    with pytest.raises(error, match=message):
        ClassifierUnderAudit(network, "mine").probe(IMAGES)


def test_names_of_classes_must_be_as_many_as_the_outputs():
    with pytest.raises(InvalidInput, match="5 outputs, but classes names 2"):
        ClassifierUnderAudit(networks.tiny(), "tiny").probe(IMAGES, ("a", "b"))


def test_a_network_that_opens_a_connection_is_refused():
    with pytest.raises(InvalidInput, match="opens a connection to"):
        ClassifierUnderAudit(networks.calls_home, "mine").probe(IMAGES)


def test_a_thread_of_the_network_may_not_open_one_either():
    def network(images):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(networks.calls_home, images).result()

    with pytest.raises(InvalidInput, match="mine opens a connection to"):
        ClassifierUnderAudit(network, "mine").probe(IMAGES)


def test_connections_of_others_are_none_of_its_business():
    with local_only("mine"):
        pass
    with socket.socket() as listening, socket.socket() as calling:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        calling.connect(listening.getsockname())
