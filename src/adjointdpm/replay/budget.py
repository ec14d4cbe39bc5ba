"""A memory budget for `replay`: as many graphs of the last calls are kept as fit, the others are run again.

The budget is for everything on the device: weights, the states that replay stores, kept graphs and the peak of the call
that runs.  Before a call runs, the oldest graphs go until kept graphs + peak of this call + the rest are within it.
That also bounds backward, which consumes the kept graphs from the last to the first.
"""

from __future__ import annotations

import re
import warnings
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from adjointdpm.errors import InvalidInput, PerformanceWarning
from adjointdpm.numerics import allocated_bytes, free_bytes
from adjointdpm.replay.call import Call
from adjointdpm.replay.keep import Graph, Keep
from adjointdpm.replay.profile import Profile, kind_of, known_profile, measure

__all__ = ["Budget", "parse_memory", "readable"]

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{end}": base**power for power, prefix in enumerate("KMGT", 1) for end, base in (("B", 1000), ("iB", 1024))
}

#: Tensors of an argument's size that a loop and its backward have in hand beside the calls' own: updates, cotangents.
_IN_THE_LOOP = 6


def parse_memory(memory: Any) -> int | None:
    """Bytes of "2GB", "1.5 GiB", "800MB" or a number; None for "auto".  Raises InvalidInput for anything else."""
    if memory == "auto":
        return None
    if isinstance(memory, int | float) and not isinstance(memory, bool) and 0 < memory < float("inf"):
        return int(memory)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B|)\s*", memory, re.I) if isinstance(memory, str) else None
    units = {unit.upper(): size for unit, size in _UNITS.items()}
    if found is None or float(found[1]) == 0 or found[2].upper() not in units:
        raise InvalidInput(f'memory={memory!r}: expected bytes, such as "6GB", "800MiB" or 2e9, or "auto"')
    return int(float(found[1]) * units[found[2].upper()])


def readable(size: float) -> str:
    """Bytes in words, rounded up so that it can be asked for: "1.24GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= scale:
            return f"{-(-size * 100 // scale) / 100:.2f}{unit}"
    return f"{int(size)}B"


class Budget(Keep):
    """Keeps graphs within `memory`.  One budget may serve several `replay` blocks of one computation.

    Args:
        memory: bytes ("2GB", 2e9), or "auto" for nine tenths of what is free on a CUDA device, half on a CPU.

    Attributes:
        profile: what the latest call costs, None while that is not known.
        calls: what each call so far costs, in order, with the module that was called.
        rest_bytes: the most that weights and states took beside the graphs (CUDA: with all that was on the device).

    Raises:
        InvalidInput: memory is no size; or, at a call, it cannot hold the call: names the smallest that can.
    """

    def __init__(self, memory: Any = "auto") -> None:
        self._memory, self._limit = memory, parse_memory(memory)
        self._kept: deque[tuple[weakref.ref[Call], int]] = deque()
        self._counted: set[int] = set()
        self._weights: dict[int, int] = {}
        self._weight_bytes = 0
        self._base: int | None = None  # what was on the device before the first call, where the allocator tells
        self._states: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}
        self._loop = 0
        self._seen: set[tuple[Any, ...]] = set()
        self._kind: tuple[Any, ...] = ()
        self._warned = False
        self._expected = 0, ""
        self.profile: Profile | None = None
        self.calls: list[tuple[torch.nn.Module, Profile]] = []
        self.rest_bytes = 0
        self._unmeasured: tuple[torch.nn.Module, Call, Sequence[torch.Tensor]] | None = None

    def count(self, *modules: torch.nn.Module) -> None:
        """Modules whose weights are on the device; those that are called are counted by themselves."""
        for module in modules:
            if id(module) not in self._counted:
                self._counted.add(id(module))
                self._weights |= {id(t): t.nbytes for t in (*module.parameters(), *module.buffers())}
                self._weight_bytes = sum(self._weights.values())

    def make_room(self, module: torch.nn.Module, call: Call, tensors: Sequence[torch.Tensor]) -> None:
        self.count(module)
        self._loop = max(self._loop, *(_IN_THE_LOOP * t.nbytes for t in tensors), 0)
        self._kind = kind_of(module, call, tensors)
        self.profile = known_profile(module, self._kind)
        device = _device(call, tensors)
        if self._base is None:
            self._base = allocated_bytes(device)
        if self.profile is None:
            self._drop(lambda kept: True)  # what it needs is not known yet
            return
        free = self.limit(device) - self._rest(device) - self.profile.peak_bytes
        self._drop(lambda kept: kept > free)
        if self._kind in self._seen:
            self._warn_if_exceeded(device)
        else:
            self._seen.add(self._kind)
            if free < 0 or self._expected[0] > self.profile.peak_bytes:
                self._require(self.profile.peak_bytes, device, call.name)

    def note(self, module: torch.nn.Module, call: Call, graph: Graph, copies: Sequence[torch.Tensor]) -> None:
        for copy in copies:
            if id(copy) not in self._weights and id(copy) not in self._states:
                self._states[id(copy)] = weakref.ref(copy), copy.nbytes
        base = self._weight_bytes if self._base is None else self._base
        self.rest_bytes = max(self.rest_bytes, base + self._state_bytes())
        if self.profile is None:
            self._unmeasured = module, call, copies
            return
        self.calls.append((module, self.profile))
        if self.profile.keeping_pays:
            call.graph = graph
            self._kept.append((weakref.ref(call), self.profile.graph_bytes))

    def finish(self) -> None:
        if self._unmeasured is None:
            return
        (module, call, copies), self._unmeasured = self._unmeasured, None
        device = _device(call, copies)
        self.profile = measure(module, self._kind, call, copies, self.limit(device) - self._rest(device))
        self.calls.append((module, self.profile))
        self._seen.add(self._kind)
        self._require(self.profile.peak_bytes, device, call.name)

    def _drop(self, too_much: Any) -> None:
        """Let the oldest graphs go while `too_much` of the bytes that are kept."""
        self._kept = deque((ref, size) for ref, size in self._kept if (c := ref()) is not None and c.graph is not None)
        total = sum(size for _, size in self._kept)
        while self._kept and too_much(total):
            ref, size = self._kept.popleft()
            total -= size
            if (oldest := ref()) is not None:
                oldest.graph = None

    def limit(self, device: torch.device) -> int:
        """The budget; "auto" is decided at the first call."""
        if self._limit is None:
            share = 0.9 if device.type == "cuda" else 0.5
            self._limit = int(self._rest(device) + self._held() + share * free_bytes(device))
        return self._limit

    def _held(self) -> int:
        """Bytes of the graphs that are kept."""
        return sum(size for ref, size in self._kept if (c := ref()) is not None and c.graph is not None)

    def _rest(self, device: torch.device) -> int:
        """Bytes of everything else on the device."""
        allocated = allocated_bytes(device)
        if allocated is not None:
            return allocated - self._held()
        return self._weight_bytes + self._state_bytes()

    def _state_bytes(self) -> int:
        self._states = {key: (ref, size) for key, (ref, size) in self._states.items() if ref() is not None}
        return sum(size for _, size in self._states.values()) + self._loop

    def expect(self, peak_bytes: int, name: str) -> None:
        """A call with this peak will come: the first call of each kind refuses for it too."""
        self._expected = max(self._expected, (peak_bytes, name))

    def _require(self, peak_bytes: int, device: torch.device, name: str) -> None:
        """Raise InvalidInput unless a call with this peak fits while no graph is kept."""
        peak_bytes, name = max(self._expected, (peak_bytes, name))
        rest = self._rest(device)
        if rest + peak_bytes > self.limit(device):
            raise InvalidInput(
                f"memory={self._memory!r} is too small: with one graph alive {name} needs "
                f"{readable(peak_bytes)} beside {readable(rest)} of weights and states; the smallest "
                f'that works here is "{readable(1.02 * (rest + peak_bytes))}"'
            )

    def _warn_if_exceeded(self, device: torch.device) -> None:
        """The states of many calls have used up what there was: too late to refuse, for what was computed."""
        assert self.profile is not None
        rest = self._rest(device)
        if rest + self.profile.peak_bytes > self.limit(device) and not self._warned:
            self._warned = True
            warnings.warn(
                f"memory={self._memory!r} is exceeded: the states of the calls so far take {readable(rest)} with the "
                f"weights, and one graph {readable(self.profile.peak_bytes)}",
                PerformanceWarning,
                stacklevel=2,
            )


def _device(call: Call, tensors: Sequence[torch.Tensor]) -> torch.device:
    return next((t.device for t in (*tensors, *call.weights)), torch.device("cpu"))
