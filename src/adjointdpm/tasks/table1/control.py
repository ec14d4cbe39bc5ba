"""A control for large NFE: the same network without its fast time features.

A network's sinusoidal time embedding turns by up to one radian a training step, and it was trained at whole steps only.
Between them nothing makes its output smooth, and 50 steps over 1,000 training steps do not resolve a ripple with a
period of a few of them, in either form: it can hide what the forms differ in.  Taking the features that turn by more
than `FASTEST` radians a step out of the embedding makes another network, smooth in time, with an ODE and a converged
solution of its own; everything else is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from adjointdpm.tasks.table1.config import Table1Config

__all__ = ["FASTEST", "MOST_NOISES", "control_config", "time_features", "without_fast_time"]

FASTEST = 0.15  # radians a training step: a period of 42 of them
MOST_NOISES = 64


def control_config(config: Table1Config) -> Table1Config:
    """Fewer noises, logSNR spacing, no images; a smooth network converges in half as many steps."""
    noises = max(2, min(MOST_NOISES, config.noises // 2))
    steps = max(2, config.reference_steps // 2)
    changes = {"noises": noises, "spacings": ("logsnr",), "images": 0, "reference_steps": steps}
    return config.model_copy(update=changes)


def time_features(network: Any) -> Tensor | None:
    """(D,) bool, which features of the time embedding are slow; None if the network has no sinusoidal one."""
    module: Any = getattr(network, "time_proj", None)
    if type(module).__name__ != "Timesteps":
        return None
    half = int(module.num_channels) // 2
    exponents = torch.arange(half) / (half - float(module.downscale_freq_shift))
    slow = torch.exp(-math.log(10000) * exponents) * float(getattr(module, "scale", 1)) <= FASTEST
    return torch.cat([slow, slow])  # sines and cosines


@contextmanager
def without_fast_time(network: Any) -> Iterator[None]:
    """The network with its fast time features at 0, inside the block."""
    slow = time_features(network)
    assert slow is not None

    def hook(module: Any, inputs: Any, out: Tensor) -> Tensor:
        return out * slow.to(out.device, out.dtype)

    handle = network.time_proj.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
