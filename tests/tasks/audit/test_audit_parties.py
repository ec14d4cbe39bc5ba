"""Which networks a run answers for."""

import copy
import types

import pytest
import torch
from torch import nn

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks import AuditConfig
from adjointdpm.tasks.audit import parties
from adjointdpm.tasks.audit.filters import EmbeddingFilter
from adjointdpm.tasks.audit.parties import Given, digest_of, find_parties
from tests.tasks.audit import networks
from tests.tasks.audit.networks import Tiny


def changed(module, name):
    """A copy with one number of a weight or buffer changed."""
    found = copy.deepcopy(module)
    dict((*found.named_parameters(), *found.named_buffers()))[name].data.view(-1)[0] += 1e-3
    return found


def test_every_weight_and_buffer_counts():
    digest = digest_of(Tiny())
    assert digest.startswith("tests.tasks.audit.networks.Tiny ") and digest == digest_of(Tiny())
    assert len({digest, *(digest_of(changed(Tiny(), name)) for name in ("inner.weight", "center"))}) == 3
    for dtype in (torch.bfloat16, torch.float64):
        assert digest_of(Tiny().to(dtype)) != digest


def wrapped(module):
    """As filters, methods and models of other packages hold a module."""
    foolbox = type("PyTorchModel", (), {"__module__": "foolbox.models.pytorch"})()
    foolbox._model = module
    art = type("PyTorchClassifier", (), {"__module__": "art.estimators.classification"})()
    art.model = module
    embedding = EmbeddingFilter(module, torch.eye(5)[:1], torch.zeros(1))
    return foolbox, art, embedding, module.features, types.SimpleNamespace(module=module)


def test_a_module_within_counts():
    for one, same, other in zip(*(wrapped(m) for m in (Tiny(), Tiny(), changed(Tiny(), "inner.bias"))), strict=True):
        assert digest_of(one) == digest_of(same) != digest_of(other)


def test_concepts_and_thresholds_of_a_filter_count():
    def filter_of(threshold):
        return EmbeddingFilter(networks.halves, torch.eye(5)[:1], torch.tensor([threshold]))

    assert digest_of(filter_of(0.1)) == digest_of(filter_of(0.1)) != digest_of(filter_of(0.2))


def test_of_a_function_the_name_counts():
    assert digest_of(networks.halves) == "tests.tasks.audit.networks.halves"
    assert digest_of(lambda x: x) != digest_of(networks.halves)


def test_of_an_onnx_file_its_bytes_count(tmp_path, monkeypatch):
    monkeypatch.setattr(parties, "load_object", lambda name, what="network": nn.Identity())
    found = []
    for text in (b"one", b"other"):
        (tmp_path / "net.onnx").write_bytes(text)
        config = AuditConfig(out=tmp_path / "run", network=str(tmp_path / "net.onnx"))
        found.append(find_parties(config, None, Given(), False).identity()["network"])
    assert found[0] != found[1] and all(digest.startswith("net.onnx ") for digest in found)


def test_everybody_is_found_by_name_or_as_given(tmp_path):
    tiny, other = (f"tests.tasks.audit.networks:{name}" for name in ("tiny", "other"))
    config = AuditConfig(out=tmp_path, network=tiny, judge=other, transfer=(other,))
    found = find_parties(config, None, Given(transfer=(Tiny(2),)), False)
    assert [party.name for party in found.transfer] == [other, "Tiny 1"]
    assert found.identity() == {
        "network": digest_of(Tiny()),
        "judge": digest_of(Tiny(1)),
        "transfer": [digest_of(Tiny(1)), digest_of(Tiny(2))],
    }
    handed = find_parties(config, None, Given(network=Tiny(3), judge=networks.agrees), False)
    assert (handed.network.name, handed.judge.name) == ("Tiny", "function")
    with pytest.raises(InvalidInput, match="network is missing"):
        find_parties(AuditConfig(out=tmp_path), None, Given(), False)
    own = find_parties(AuditConfig(out=tmp_path), None, Given(), True)
    assert own.embedded and own.network.name == "the embedded classifier" and own.judge.network is None
