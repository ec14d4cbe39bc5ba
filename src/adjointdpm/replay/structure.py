"""Arguments and results of any shape: find the tensors in them and put others in their place.

One function does all of it.  `swapped(value, torch.Tensor, to_slot)` turns a structure into a pattern with numbered
`Slot`s where tensors were; `swapped(pattern, Slot, to_tensor)` turns the pattern back into a structure.  Containers
(tuples, named tuples, lists, dicts and their subclasses such as diffusers' `BaseOutput`) and plain objects that hold
tensors among their attributes (dataclasses, the `latent_dist` of an autoencoder) are copied, never edited, and only
where something inside them changed.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Slot", "swapped", "tensors_in"]

_ATOMS = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.Generator, range)
_OPAQUE = (torch.nn.Module, type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
_DEPTH = 6  # of plain objects inside plain objects; deeper ones are taken as they are


@dataclass(frozen=True, slots=True)
class Slot:
    """Place number `index` of a tensor in a pattern."""

    index: int


def swapped(value: Any, leaf: type, swap: Callable[[Any], Any], *, fresh: bool = False) -> Any:
    """`value` with every instance of `leaf` in it replaced by `swap(instance)`.

    A container in which nothing changed is returned as the object it is, so that code that writes into a list it was
    given still does; with `fresh` lists, dicts and sets are copied all the same, so that running a call again does not
    write into them twice.
    """
    return _swapped(value, leaf, swap, fresh, 0, set())


def _swapped(value: Any, leaf: type, swap: Callable[[Any], Any], fresh: bool, depth: int, open_: set[int]) -> Any:
    if isinstance(value, leaf):
        return swap(value)
    if isinstance(value, (_ATOMS, _OPAQUE)):
        return value
    if id(value) in open_ or depth > _DEPTH:  # an object that holds itself, or a tree of objects not made for tensors
        return value
    open_.add(id(value))
    try:
        if isinstance(value, tuple):
            new = [_swapped(v, leaf, swap, fresh, depth, open_) for v in value]
            if all(a is b for a, b in zip(new, value, strict=True)):
                return value
            return type(value)._make(new) if hasattr(value, "_make") else type(value)(new)
        if isinstance(value, list):
            new = [_swapped(v, leaf, swap, fresh, depth, open_) for v in value]
            if not fresh and all(a is b for a, b in zip(new, value, strict=True)):
                return value
            if type(value) is list:
                return new
            result = copy.copy(value)
            result[:] = new
            return result
        if isinstance(value, dict):
            return _swapped_dict(value, leaf, swap, fresh, depth, open_)
        if isinstance(value, set):
            return set(value) if fresh and type(value) is set else value
        if getattr(value, "__dict__", None):
            return _swapped_object(value, leaf, swap, depth, open_)
        return value
    finally:
        open_.discard(id(value))


def _swapped_dict(
    value: dict[Any, Any], leaf: type, swap: Callable[[Any], Any], fresh: bool, depth: int, open_: set[int]
) -> Any:
    new = {k: _swapped(v, leaf, swap, fresh, depth, open_) for k, v in value.items()}
    changed = {k: v for k, v in new.items() if v is not value[k]}
    if not changed and not fresh:
        return value
    if type(value) is dict:
        return new
    result = copy.copy(value)
    for k, v in changed.items():
        result[k] = v
    if getattr(result, "__dict__", None):  # BaseOutput keeps every field twice: as an item and as an attribute
        vars(result).update(_changed_attributes(result, leaf, swap, depth, open_))
    return result


def _changed_attributes(
    value: Any, leaf: type, swap: Callable[[Any], Any], depth: int, open_: set[int]
) -> dict[str, Any]:
    new = {k: _swapped(v, leaf, swap, False, depth + 1, open_) for k, v in vars(value).items()}
    return {k: v for k, v in new.items() if v is not vars(value)[k]}


def _swapped_object(value: Any, leaf: type, swap: Callable[[Any], Any], depth: int, open_: set[int]) -> Any:
    changed = _changed_attributes(value, leaf, swap, depth, open_)
    if not changed:
        return value
    result = copy.copy(value)
    vars(result).update(changed)  # not setattr: frozen dataclasses and properties would refuse
    return result


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Every distinct tensor in a structure, in order of first appearance."""
    found: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.setdefault(id(tensor), tensor)
        return tensor

    swapped(value, torch.Tensor, note)
    return list(found.values())
