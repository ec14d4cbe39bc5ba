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

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from adjointdpm.errors import InvalidInput, WeightsChanged
from adjointdpm.replay.state import Snapshot

__all__ = ["Mark", "WeightWatch"]

_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PROBES, _PROBE_SIZE = 8, 4096


def _fingerprint(tensor: torch.Tensor) -> torch.Tensor | None:
    """Three int64 of a tensor's bits: a wrapping sum and two elements.  Exact, so alike on every device and thread.

    The elements are there for what leaves the sum as it was, such as a changed sign of all of an even number of them.
    """
    if tensor.is_meta or tensor.numel() == 0 or tensor.layout != torch.strided or tensor.is_quantized:
        return None
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    bits = real.view(_INTEGER[real.element_size()])
    total = bits.sum(dtype=torch.int64 if bits.dtype == torch.int64 else torch.int32)
    first = bits[(0,) * bits.dim()]
    middle = bits[tuple(n // 2 for n in bits.shape)]
    return torch.stack([total.long(), first.long(), middle.long()])


@dataclass(eq=False)
class Mark:
    """Weights at one time: counters, pointers and fingerprints of `tensors`; calls share it while nothing changes."""

    names: list[str]
    tensors: list[torch.Tensor]
    versions: list[int]
    pointers: list[int]
    dtypes: list[torch.dtype]
    devices: list[torch.device]
    prints: list[torch.Tensor | None]

    @classmethod
    def of(cls, weights: dict[str, torch.Tensor]) -> Mark:
        tensors = list(weights.values())
        with torch.no_grad():
            prints = [_fingerprint(t) for t in tensors]
        versions, pointers = _counters(tensors)
        return cls(
            list(weights), tensors, versions, pointers, [t.dtype for t in tensors], [t.device for t in tensors], prints
        )

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
                keep = [i for i, n in enumerate(self._mark.names) if n not in self._mutable]
                m = self._mark
                self._mark = Mark(*([column[i] for i in keep] for column in vars(m).values()))  # type: ignore[arg-type]
        changing = {id(t) for t in self._mutable.values()}
        return self._mark, {key: value for key, value in before.items() if key in changing}

    def probe(self) -> list[torch.Tensor]:
        """Norms of a few small weights, at every call: sees an EMA swap that is undone before backward."""
        return list(torch._foreach_norm([t.detach() for t in self._probes])) if self._probes else []

    def check(self, mark: Mark, probe: list[torch.Tensor], call: str, task: int) -> None:
        """Raise `WeightsChanged` unless the weights are what they were at the call; in full once per backward pass."""
        counters = _counters(mark.tensors)
        key = (task, id(mark), counters)
        if key != self._checked:
            changed = [
                (name, _why(tensor, mark, i))
                for i, (name, tensor) in enumerate(zip(mark.names, mark.tensors, strict=True))
                if not _same_print(mark.prints[i], tensor, mark.dtypes[i])
            ]
            if changed:
                raise _error(call, changed)
            self._checked = key
        now = self.probe()
        alike = [(t.dtype, t.device) for t in now] == [(t.dtype, t.device) for t in probe]
        if alike and now and not _equal(torch.stack(now), torch.stack(probe)):
            raise _error(call, [("some of the weights", "they were swapped for the call by way of `.data`")])

    @contextmanager
    def in_force(self, mark: Mark, buffers: dict[int, torch.Tensor], snapshot: Snapshot) -> Iterator[None]:
        """For a replay: weights in the dtype and on the device of the call, and copies of the buffers it changes."""
        moved = []
        swapped: list[tuple[dict[str, Any], str, torch.Tensor]] = []
        try:
            for tensor, dtype, place in zip(mark.tensors, mark.dtypes, mark.devices, strict=True):
                device = tensor.device if self._hooked else place
                if (tensor.dtype != dtype or tensor.device != device) and not tensor.is_meta:
                    moved.append((tensor, tensor.data))
                    tensor.data = tensor.data.to(device=device, dtype=dtype)
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
            for tensor, data in moved:
                tensor.data = data


def _is_buffer(tensor: torch.Tensor) -> bool:
    return not isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b) or bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


def _same_print(then: torch.Tensor | None, tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    if then is None or tensor.is_meta:
        return True
    with torch.no_grad():
        now = _fingerprint(tensor.detach().to(dtype) if tensor.dtype != dtype else tensor)
    return now is not None and torch.equal(then.cpu(), now.cpu())


def _why(tensor: torch.Tensor, mark: Mark, i: int) -> str:
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
