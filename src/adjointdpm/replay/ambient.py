"""What surrounds a call and changes its result: random numbers, autocast, attention kernels.

Recorded when a call runs and in force again when it is replayed, whatever holds at the time of backward, which usually
runs after the `with torch.autocast(...)` block has ended and the random generators have moved on.  Covered are torch's
default generators of the CPU, of the current CUDA device and of the tensors' devices, and every `torch.Generator` among
the arguments; Python's and numpy's own generators are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

__all__ = ["Ambient"]

_KERNELS: tuple[tuple[Callable[[], bool], Callable[[bool], Any]], ...] = (
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
)


def _autocast_state(kind: str) -> tuple[bool, torch.dtype, bool]:
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled()


def _random_state(source: str | torch.device | torch.Generator) -> torch.Tensor:
    if isinstance(source, torch.Generator):
        return source.get_state()  # type: ignore[no-any-return]
    return torch.get_rng_state() if source == "cpu" else torch.cuda.get_rng_state(source)


def _set_random_state(source: str | torch.device | torch.Generator, state: torch.Tensor) -> None:
    if isinstance(source, torch.Generator):
        source.set_state(state)
    elif source == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, source)


class Ambient:
    """Surroundings of one call, recorded on construction; call `settle` when the call has run."""

    def __init__(self, devices: Iterable[torch.device], generators: Iterable[torch.Generator]) -> None:
        devices = set(devices)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # offload hooks take tensors of the CPU there
            devices.add(torch.device("cuda", torch.cuda.current_device()))
        kinds = {"cpu", *(d.type for d in devices if d.type in ("cuda", "xpu", "mps", "hpu"))}
        self.autocast = {kind: _autocast_state(kind) for kind in kinds}
        self.kernels = [enabled() for enabled, _ in _KERNELS]
        sources: list[Any] = ["cpu", *(d for d in devices if d.type == "cuda"), *generators]
        self.random = [(source, _random_state(source)) for source in sources]

    def autocast_key(self) -> tuple[Any, ...]:
        """The autocast states, to compare calls by."""
        return tuple(sorted(self.autocast.items()))

    def settle(self) -> None:
        """Forget the random states that the call did not advance: it drew nothing there, and 5 KB a call are saved."""
        self.random = [
            (source, state) for source, state in self.random if not torch.equal(state, _random_state(source))
        ]

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The surroundings of the call; those of now come back afterwards."""
        with ExitStack() as stack:
            for (enabled, enable), then in zip(_KERNELS, self.kernels, strict=True):
                if enabled() != then:
                    stack.callback(enable, not then)
                    enable(then)
            for source, state in self.random:
                stack.callback(_set_random_state, source, _random_state(source))
                _set_random_state(source, state)
            for kind, then_state in self.autocast.items():
                now_state = _autocast_state(kind)
                if now_state != then_state and (now_state[0] or then_state[0]):
                    enabled_, dtype, cache = then_state
                    stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled_, cache_enabled=cache))
            yield
