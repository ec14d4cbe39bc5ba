"""The network as it was in the forward, for an engine that evaluates it anew in backward.

`replay` records this for each call; the continuous adjoint evaluates the network at states that no forward call has
seen,
so it records once for the whole solve, from the same parts: the module's state (modes, hooks, scales, processors), the
weights' values, dtypes and `requires_grad`, autocast and attention kernels.  Random numbers are not part of it: the
network of an ODE draws none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adjointdpm.replay.ambient import Ambient
from adjointdpm.replay.gate import graph_task
from adjointdpm.replay.state import Snapshot
from adjointdpm.replay.weights import WeightWatch

__all__ = ["Surroundings"]


class Surroundings:
    """What a network's output depends on beside its arguments, as it is on construction."""

    def __init__(self, network: nn.Module, tensors: Iterable[Tensor]) -> None:
        self._snapshot = Snapshot(network)
        self._watch = WeightWatch(network)
        self._watch.look(self._snapshot, anew=True)
        self._mark, _ = self._watch.end(self._watch.begin())
        self._probe = self._watch.probe()
        self._trains = [(p, p.requires_grad) for p in network.parameters()]
        self._ambient = Ambient({t.device for t in tensors}, ())
        self._ambient.settle()

    def check(self) -> None:
        """Raise WeightsChanged if a weight or buffer is not what it was, in place or by way of `.data`."""
        self._watch.check(self._mark, self._probe, "the network", graph_task())

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The network as it was; how it is now comes back afterwards."""
        now = [(p, p.requires_grad) for p, _ in self._trains]
        with self._snapshot.in_force(), self._watch.as_called(self._mark), self._ambient.in_force():
            try:
                _set(self._trains)
                yield
            finally:
                _set(now)


def _set(flags: list[tuple[nn.Parameter, bool]]) -> None:
    with torch.no_grad():
        for parameter, wanted in flags:
            if parameter.requires_grad != wanted:
                parameter.requires_grad_(wanted)
