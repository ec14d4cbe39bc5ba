"""What a run depends on besides its configuration: versions, threads, device, random states.

A resumed run repeats the interrupted one bit for bit only on the same kernels, so these are recorded, and a difference
is named in a warning instead of being discovered later in the last digits.
"""

from __future__ import annotations

import importlib.metadata
import platform
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["environment", "environment_differences", "random_state", "set_random_state"]

PACKAGES = ("adjointdpm", "torch", "diffusers", "transformers", "numpy", "safetensors")


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions, thread count and device as plain JSON values."""
    device = torch.device(device)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": versions,
    }


def environment_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each difference as text, such as "threads: 2 -> 1"; empty if a bit-identical resume can be expected."""
    flat_before, flat_now = (
        {**{k: v for k, v in e.items() if k != "versions"}, **e["versions"]} for e in (before, now)
    )
    return [
        f"{key}: {flat_before.get(key)} -> {flat_now.get(key)}"
        for key in sorted(flat_before.keys() | flat_now.keys())
        if flat_before.get(key) != flat_now.get(key)
    ]


def random_state() -> dict[str, Any]:
    """State of the global generators of torch (CPU), NumPy and Python, for `runs.state.pack`."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
