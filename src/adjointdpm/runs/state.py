"""Any nested state as one flat dictionary of tensors beside one JSON value, and back.

Optimizer and generator states are nested dictionaries with integer keys, tuples and tensors in them.  safetensors
takes flat tensors and JSON takes neither tuples nor integer keys, so `pack` replaces each tensor by a reference and
marks what JSON would lose.  `unpack` is its exact inverse, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["pack", "unpack"]


def pack(value: Any, name: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Split `value` into (a JSON value, tensors by name).

    Accepts None, bool, int, float, str, tensors, and lists, tuples and dictionaries of them; raises `TypeError`
    naming the place of anything else.  Floats survive exactly (JSON writes the shortest text that reads back equal).
    """
    tensors: dict[str, Tensor] = {}

    def walk(item: Any, at: str) -> Any:
        if item is None or isinstance(item, bool | int | float | str):
            return item
        if isinstance(item, Tensor):
            tensors[at] = item.detach()
            return {"$": "tensor", "key": at}
        if isinstance(item, list):
            return [walk(part, f"{at}.{i}") for i, part in enumerate(item)]
        if isinstance(item, tuple):
            return {"$": "tuple", "items": [walk(part, f"{at}.{i}") for i, part in enumerate(item)]}
        if isinstance(item, Mapping):
            pairs = [[walk(key, at), walk(part, f"{at}.{key}")] for key, part in item.items()]
            return {"$": "dict", "items": pairs}
        raise TypeError(f"cannot store {type(item).__name__} at {at!r}; only tensors and plain values are saved")

    return walk(value, name), tensors


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `pack` took apart; raises `InvalidInput` if a tensor it refers to is missing."""
    if isinstance(packed, list):
        return [unpack(part, tensors) for part in packed]
    if not isinstance(packed, dict):
        return packed
    kind = packed.get("$")
    if kind == "tensor":
        if packed["key"] not in tensors:
            raise InvalidInput(f"the checkpoint's JSON refers to a tensor {packed['key']!r} that its file lacks")
        return torch.clone(tensors[packed["key"]])
    if kind == "tuple":
        return tuple(unpack(part, tensors) for part in packed["items"])
    if kind == "dict":
        return {unpack(key, tensors): unpack(part, tensors) for key, part in packed["items"]}
    raise InvalidInput(f"not a packed state: unknown mark {kind!r}")
