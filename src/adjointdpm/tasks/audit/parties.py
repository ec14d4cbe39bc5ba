"""Who takes part in an audit: the network under audit, the judge, and the networks that found images are shown to.

Each has a digest of every weight and buffer that says which it is, so that a folder of results answers for the networks
that it was made with, and for no others.  Of a plain function nothing is known but its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.audit.adapters import module_in
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.filters import SafetyCheckerFilter
from adjointdpm.tasks.audit.network import load_object

__all__ = ["Given", "Parties", "Party", "digest_of", "find_parties"]

SAFETY = "safety_checker"


@dataclass(frozen=True)
class Given:
    """Objects that a caller of the Python function may hand over in place of names."""

    network: Any = None
    judge: Any = None
    transfer: Sequence[Any] = ()


@dataclass(frozen=True)
class Party:
    """A network, what messages and reports call it, and which one it is.

    `network` is None for the embedded model's own filter and judge, which are made where they are needed.
    """

    name: str
    network: Any
    digest: str


@dataclass(frozen=True)
class Parties:
    """`embedded`: the network under audit is the embedded model's own."""

    network: Party
    judge: Party | None
    transfer: tuple[Party, ...]
    embedded: bool

    def identity(self) -> dict[str, Any]:
        """What must agree on resume."""
        judge = None if self.judge is None else self.judge.digest
        return {"network": self.network.digest, "judge": judge, "transfer": [party.digest for party in self.transfer]}


def find_parties(config: AuditConfig, pipe: Any, given: Given, embedded: bool) -> Parties:
    """Everybody, found by name or as `given`; `embedded` says whether `pipe` is the embedded model.

    Raises `InvalidInput` for a name that stands for nothing, and where the network under audit is not named.
    """
    transfer = [_named(name) for name in config.transfer]
    transfer += [_handed(network, f"{type(network).__name__} {k + 1}") for k, network in enumerate(given.transfer)]
    own = given.network is None and config.network is None
    network = _own(config) if own and embedded else _network(config, pipe, given)
    return Parties(network, _judge(config, given, embedded), tuple(transfer), own)


def _own(config: AuditConfig) -> Party:
    from adjointdpm import zoo

    network = zoo.classifier()
    if config.mode == "filter":
        return Party("the embedded food filter", None, digest_of(network))
    return _handed(network, "the embedded classifier")


def _network(config: AuditConfig, pipe: Any, given: Given) -> Party:
    if given.network is not None:
        return _handed(given.network, type(given.network).__name__)
    if config.network is None:
        raise InvalidInput("network is missing: name the network under audit; only the embedded model has its own")
    if config.mode == "filter" and config.network == SAFETY:
        parts = [getattr(pipe, part, None) for part in (SAFETY, "feature_extractor")]
        return _handed(SafetyCheckerFilter(*parts), "the pipeline's safety checker")
    return _named(config.network)


def _judge(config: AuditConfig, given: Given, embedded: bool) -> Party | None:
    if given.judge is not None:
        return _handed(given.judge, type(given.judge).__name__)
    if config.judge is not None:
        return _named(config.judge, "judge")
    if not embedded:
        return None
    from adjointdpm import zoo

    return Party("the embedded judge", None, digest_of(zoo.judge()))


def _handed(network: Any, name: str) -> Party:
    return Party(name, network, digest_of(network))


def _named(name: str, what: str = "network") -> Party:
    network, file = load_object(name, what), Path(name).expanduser()
    if file.suffix.lower() != ".onnx":
        return _handed(network, name)
    with file.open("rb") as opened:  # the graph is not among the weights
        return Party(name, network, f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()[:16]}")


def digest_of(network: Any) -> str:
    """The name of a network's class, or of a function, with a hash of the tensors in it if there are any."""
    named = network if hasattr(network, "__qualname__") else type(network)
    name, digest, empty = f"{named.__module__}.{named.__qualname__}", hashlib.sha256(), True
    for key, tensor in _tensors(network):
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        empty = False
    return name if empty else f"{name} {digest.hexdigest()[:16]}"


def _tensors(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Weights and buffers of a module, or of one that a model of another package, a filter or a method holds."""
    held = [network, module_in(network), getattr(network, "__self__", None), *getattr(network, "__dict__", {}).values()]
    for part in {id(part): part for part in held}.values():
        if isinstance(part, Tensor):
            yield "", part
        elif isinstance(part, nn.Module):
            yield from part.named_parameters()
            yield from part.named_buffers()
