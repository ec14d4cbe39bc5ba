"""Weights and buffers must be, at backward, what they were at the call; and buffers must not be advanced twice.

PyTorch's version counters see in-place edits (an optimizer step, `load_state_dict`) but not edits through `.data`
(EMA swaps, LoRA merges, `p.data.copy_`), so values are compared too: a bit-exact fingerprint of every weight, taken
once while nothing moves and compared once per backward pass, and a tiny one of a few small weights at every call.
Counters and pointers only say when to look again; the values decide.  So a weight that merely moved (an offload hook)
or was cast up and back (a VAE in float16 decoded in float32) is no false alarm; the replay runs in the dtype and on the
device of the call.  Not seen: an edit of fewer than all weights through `.data` that is undone before backward.

Buffers that the forward itself changes (BatchNorm's statistics, spectral norm's vectors) are exempt: the replay gets
copies with the values of the call, so the real ones advance once, and a replay sees what its call saw.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from adjointdpm.errors import InvalidInput, WeightsChanged
from adjointdpm.replay.prints import UNKNOWN, fingerprints
from adjointdpm.replay.state import Snapshot

__all__ = ["Mark", "WeightWatch"]

_PROBES, _PROBE_SIZE = 8, 4096


@dataclass(eq=False)
class Mark:
    """Weights at one time: counters, pointers and fingerprints of `tensors`; calls share it while nothing changes."""

    names: list[str]
    tensors: list[torch.Tensor]
    versions: list[int]
    pointers: list[int]
    dtypes: list[torch.dtype]
    devices: list[torch.device]
    prints: torch.Tensor  # (len(tensors), 2)

    @classmethod
    def of(cls, weights: dict[str, torch.Tensor]) -> Mark:
        tensors = list(weights.values())
        dtypes, devices = [t.dtype for t in tensors], [t.device for t in tensors]
        return cls(list(weights), tensors, *_counters(tensors), dtypes, devices, fingerprints(tensors, dtypes))

    def without(self, names: Collection[str]) -> Mark:
        """The same mark less some of the weights."""
        keep = [i for i, name in enumerate(self.names) if name not in names]

        def kept(column: list[Any]) -> list[Any]:
            return [column[i] for i in keep]

        return Mark(
            kept(self.names),
            kept(self.tensors),
            kept(self.versions),
            kept(self.pointers),
            kept(self.dtypes),
            kept(self.devices),
            self.prints[keep],
        )

    def changed(self) -> list[int]:
        """Positions of the weights whose values are not what they were."""
        now = fingerprints(self.tensors, self.dtypes)
        known = (now != UNKNOWN) & (self.prints != UNKNOWN)
        return ((now != self.prints) & known).any(1).nonzero().flatten().tolist()

    def untouched(self) -> bool:
        """Whether nothing was edited in place and nothing moved."""
        return _counters(self.tensors) == (self.versions, self.pointers)

    def rewritten(self) -> bool:
        """Whether something was edited in place."""
        return [t._version for t in self.tensors] != self.versions


def _counters(tensors: list[torch.Tensor]) -> tuple[list[int], list[int]]:
    return [t._version for t in tensors], [0 if t.is_meta else t.data_ptr() for t in tensors]


class WeightWatch:
    """The weights of one module under one `replay`."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._hooked = hasattr(module, "_hf_hook")  # accelerate moves the weights itself
        self._mark: Mark | None = None
        self._mutable: dict[str, torch.Tensor] | None = None
        self._weights: dict[str, torch.Tensor] = {}
        self.anew = True
        self._probes: list[torch.Tensor] = []
        self._checked: tuple[Any, ...] = ()

    def look(self, snapshot: Snapshot, *, anew: bool) -> None:
        """Learn which weights there are.  anew: the module's state changed, so the next call must learn all again."""
        self._weights = snapshot.weights()
        frozen_for_good = [name for name, t in self._weights.items() if t.is_inference()]
        if frozen_for_good:
            raise InvalidInput(
                f"weight {frozen_for_good[0]} was made under torch.inference_mode() and cannot take part in a "
                "gradient; load the module outside of it"
            )
        self.anew = self.anew or anew

    @property
    def trainable(self) -> list[torch.Tensor]:
        """The weights that require grad."""
        return [t for t in self._weights.values() if t.requires_grad]

    def begin(self) -> dict[int, torch.Tensor]:
        """Note the weights before a call.  Returns copies of the buffers that it may change, by the buffer's id."""
        if self.anew or self._mutable is None:
            self._mutable, self._mark, self.anew = None, None, False
            small = [
                t
                for t in self._weights.values()
                if 0 < t.numel() <= _PROBE_SIZE and t.is_floating_point() and not _is_buffer(t)
            ]
            self._probes = [t for t in small[:: max(1, len(small) // _PROBES)] if not t.is_meta]
            copied = {n: t for n, t in self._weights.items() if _is_buffer(t) and not t.is_meta}
        else:
            copied = self._mutable
        if self._mark is None or not self._mark.untouched():
            mutable = self._mutable or {}
            self._mark = Mark.of({n: t for n, t in self._weights.items() if n not in mutable})
        return {id(t): t.detach().clone() for t in copied.values()}

    def end(self, before: dict[int, torch.Tensor]) -> tuple[Mark, dict[int, torch.Tensor]]:
        """Note which buffers the call changed.  Returns the call's mark and the copies that its replay needs."""
        assert self._mark is not None
        if self._mutable is None:
            versions = dict(zip(self._mark.names, self._mark.versions, strict=True))
            self._mutable = {
                name: t
                for name, t in self._weights.items()
                if id(t) in before and (t._version != versions[name] or not _equal(t, before[id(t)]))
            }
            if self._mutable:
                self._mark = self._mark.without(self._mutable)
        changing = {id(t) for t in self._mutable.values()}
        return self._mark, {key: value for key, value in before.items() if key in changing}

    def probe(self) -> list[torch.Tensor]:
        """Norms of a few small weights, at every call: sees an EMA swap that is undone before backward."""
        return list(torch._foreach_norm([t.detach() for t in self._probes])) if self._probes else []

    def check(self, mark: Mark, probe: list[torch.Tensor], call: str, task: int) -> None:
        """Raise `WeightsChanged` unless the weights are what they were at the call; in full once per backward pass."""
        key = (task, mark, _counters(mark.tensors))
        if key != self._checked:
            changed = [(mark.names[i], _why(mark, i)) for i in mark.changed()]
            if changed:
                raise _error(call, changed)
            self._checked = key
        now = self.probe()
        alike = [(t.dtype, t.device) for t in now] == [(t.dtype, t.device) for t in probe]
        if alike and now and not _equal(torch.stack(now), torch.stack(probe)):
            raise _error(call, [("some of the weights", "they were swapped for the call by way of `.data`")])

    @contextmanager
    def as_called(self, mark: Mark) -> Iterator[None]:
        """Weights in the dtype and on the device of the call; also while its graph is differentiated, which reads them
        (a convolution saves its weight itself, so the graph sees what was done to it since)."""
        moved = []
        try:
            for tensor, dtype, place in zip(mark.tensors, mark.dtypes, mark.devices, strict=True):
                device = tensor.device if self._hooked else place
                if (tensor.dtype != dtype or tensor.device != device) and not tensor.is_meta:
                    moved.append((tensor, tensor.data))
                    tensor.data = tensor.data.to(device=device, dtype=dtype)
            yield
        finally:
            for tensor, data in moved:
                tensor.data = data

    @contextmanager
    def own_buffers(self, buffers: dict[int, torch.Tensor], snapshot: Snapshot) -> Iterator[None]:
        """For a replay: copies of the buffers that the call changes."""
        swapped: list[tuple[dict[str, Any], str, torch.Tensor]] = []
        try:
            if buffers:
                for module in snapshot.modules:
                    slots = vars(module)["_buffers"]
                    for name, buffer in slots.items():
                        if id(buffer) in buffers:
                            swapped.append((slots, name, buffer))
                for slots, name, buffer in swapped:
                    slots[name] = buffers[id(buffer)].clone()
            yield
        finally:
            for slots, name, buffer in swapped:
                slots[name] = buffer


def _is_buffer(tensor: torch.Tensor) -> bool:
    return not isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b) or bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


def _why(mark: Mark, i: int) -> str:
    tensor = mark.tensors[i]
    if tensor.dtype != mark.dtypes[i]:
        return f"it was {mark.dtypes[i]} and is {tensor.dtype} now, and the conversion lost digits"
    if tensor._version != mark.versions[i]:
        return "it was edited in place: an optimizer step, load_state_dict or the like"
    return "its values were replaced by way of `.data`: an EMA swap, a merged LoRA or the like"


def _error(call: str, changed: list[tuple[str, str]]) -> WeightsChanged:
    name, why = changed[0]
    more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    return WeightsChanged(
        f"weights of {call} changed between the call and its backward: {name}{more}; {why}. Replaying the call with "
        "other weights would give a wrong gradient. Call backward before the weights are changed, or run the loop "
        "again after the change."
    )
