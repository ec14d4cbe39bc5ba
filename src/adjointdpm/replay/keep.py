"""Which calls keep their graph for backward: a fixed number of the last ones, all of certain modules, or a budget's.

Always the last ones, because backward reaches them first and frees them before it replays the earlier ones: kept graphs
and replayed graphs are never alive together.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.replay.call import Call

__all__ = ["Keep", "KeepLast", "make_keep"]

Graph = tuple[list[torch.Tensor], list[torch.Tensor]]  # (outputs, leaves)


class Keep(ABC):
    """A policy; `make_room` before each call runs, `note` when it has."""

    @abstractmethod
    def make_room(self, module: torch.nn.Module, call: Call, tensors: Sequence[torch.Tensor]) -> None:
        """Let graphs of earlier calls go, so that this one's fits."""

    @abstractmethod
    def note(self, module: torch.nn.Module, call: Call, graph: Graph, copies: Sequence[torch.Tensor]) -> None:
        """The call has run: hand it its graph (`call.graph = graph`) if it may keep it."""

    def finish(self) -> None:  # noqa: B027
        """The call is over and nothing of its graph is held but by this policy."""


class KeepLast(Keep):
    """The last `number` calls, or all calls of `modules` and none of others."""

    def __init__(self, number: int, modules: frozenset[torch.nn.Module]) -> None:
        self._number, self._modules = number, modules
        self._kept: deque[weakref.ref[Call]] = deque()

    def make_room(self, module: torch.nn.Module, call: Call, tensors: Sequence[torch.Tensor]) -> None:
        if module in self._modules:
            return
        while self._kept and len(self._kept) >= max(1, self._number):
            oldest = self._kept.popleft()()
            if oldest is not None:
                oldest.graph = None

    def note(self, module: torch.nn.Module, call: Call, graph: Graph, copies: Sequence[torch.Tensor]) -> None:
        if module in self._modules:
            call.graph = graph
        elif self._number:
            call.graph = graph
            self._kept.append(weakref.ref(call))


def make_keep(keep: Any) -> Keep:
    """The policy that `replay(keep=...)` names.  Raises InvalidInput for anything else."""
    if isinstance(keep, str):
        if keep not in ("last", "none"):
            raise InvalidInput(f'keep={keep!r}: expected "last", "none", a number of calls or modules')
        return KeepLast(int(keep == "last"), frozenset())
    if isinstance(keep, int):
        if keep < 0:
            raise InvalidInput(f"keep={keep}: the number of graphs to keep cannot be negative")
        return KeepLast(keep, frozenset())
    modules = (keep,) if isinstance(keep, torch.nn.Module) else tuple(keep)
    if not all(isinstance(m, torch.nn.Module) for m in modules):
        raise InvalidInput("keep= takes modules, a number of calls, or a word")
    return KeepLast(0, frozenset(modules))
