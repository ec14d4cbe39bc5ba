"""What one call costs: bytes of its graph, peak of its forward and VJP, seconds; measured once and remembered.

The first call of a kind (module, method, shapes, what requires grad) is run again a few times right after it: once
under a memory meter, and where there is room for two graphs a few times more for its times.  Later calls of that kind,
also in other `replay` blocks, cost nothing extra.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from adjointdpm.numerics import LiveTensorMeter, synchronize
from adjointdpm.replay.call import Call

__all__ = ["Profile", "kind_of", "known_profile", "measure"]

_known: Any = WeakIdKeyDictionary()
_ENOUGH = 0.1  # seconds of timing; the fastest of two to five rounds counts


@dataclass(frozen=True)
class Profile:
    """One call of a kind.

    Attributes:
        graph_bytes: what its graph holds between forward and backward.
        peak_bytes: highest need of its forward and VJP together, arguments and weights not counted.
        forward_seconds, vjp_seconds: NaN until they were measured.
        keeping_pays: whether a forward that takes fresh memory beside a kept graph costs less than running it twice.
    """

    graph_bytes: int
    peak_bytes: int
    forward_seconds: float = float("nan")
    vjp_seconds: float = float("nan")
    keeping_pays: bool = True


def kind_of(module: torch.nn.Module, call: Call, tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """What determines the cost of a call, as a key."""
    shapes = tuple((tuple(t.shape), t.dtype, t.device, t.requires_grad) for t in tensors)
    return type(module), call.method, shapes, len(call.weights), module.training, call.ambient.autocast_key()


def known_profile(module: torch.nn.Module, kind: tuple[Any, ...]) -> Profile | None:
    """What was measured before, if anything."""
    found: Profile | None = _known.get(_owner(module), {}).get(kind)
    return found


def measure(
    module: torch.nn.Module, kind: tuple[Any, ...], call: Call, copies: Sequence[torch.Tensor], room: float
) -> Profile:
    """Run the call again and remember what it costs; `room` is how many bytes may be used on top of what is."""
    device = next((t.device for t in (*copies, *call.weights)), torch.device("cpu"))
    with call.being_measured():
        meter = _Meter(device)
        with meter:
            graph = call.run_again(copies)
            held = meter.live()
            call.plain_vjp(*graph)
        profile = Profile(held, meter.peak())
        del graph
        if room >= held + profile.peak_bytes:
            profile = _timed(call, copies, device, profile)
    _known.setdefault(_owner(module), {})[kind] = profile
    return profile


def _timed(call: Call, copies: Sequence[torch.Tensor], device: torch.device, profile: Profile) -> Profile:
    def seconds(work: Any) -> tuple[float, Any]:
        synchronize(device)
        started = time.perf_counter()
        result = work()
        synchronize(device)
        return time.perf_counter() - started, result

    times: list[tuple[float, ...]] = []
    while len(times) < 2 or (len(times) < 5 and sum(map(sum, times)) < _ENOUGH):
        reused, first = seconds(lambda: call.run_again(copies))  # into the memory that the run before it left
        fresh, second = seconds(lambda: call.run_again(copies))  # beside a graph that is kept
        vjp, _ = seconds(lambda graph=second: call.plain_vjp(*graph))
        del first, second
        times.append((reused, fresh, vjp))
    reused, fresh, vjp = (min(each) for each in zip(*times, strict=True))
    return Profile(profile.graph_bytes, profile.peak_bytes, reused, vjp, _pays(reused, fresh))


def _pays(reused: float, fresh: float) -> bool:
    """Whether keeping a graph, which makes the next forward take fresh memory, is cheaper than running it again."""
    return fresh < 2 * reused


class _Meter:
    """Bytes above those at entry: of live tensors on the CPU, of the allocator on CUDA."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._meter: Any = None if device.type == "cuda" else LiveTensorMeter()
        self._base = 0

    def __enter__(self) -> None:
        if self._meter is not None:
            self._meter.__enter__()
        else:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._base = torch.cuda.memory_allocated(self._device)

    def __exit__(self, *error: Any) -> None:
        if self._meter is not None:
            self._meter.__exit__(*error)

    def live(self) -> int:
        if self._meter is not None:
            return int(self._meter.live_bytes)
        return torch.cuda.memory_allocated(self._device) - self._base

    def peak(self) -> int:
        if self._meter is not None:
            return int(self._meter.peak_bytes)
        return torch.cuda.max_memory_allocated(self._device) - self._base


def _owner(module: torch.nn.Module) -> Any:
    """What lives as long as the network does: wrappers are made anew for each solve, their weights are not."""
    return next(module.parameters(), module)
