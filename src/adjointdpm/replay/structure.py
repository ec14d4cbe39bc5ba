"""Arguments and results of any shape: find the tensors in them and put others in their place.

One function does all of it.  `swapped(value, torch.Tensor, to_slot)` turns a structure into a pattern with numbered
`Slot`s where tensors were; `swapped(pattern, Slot, to_tensor)` turns the pattern back into a structure.  Containers
(tuples, named tuples, lists, dicts and their subclasses such as diffusers' `BaseOutput`) and plain objects that hold
tensors among their attributes (dataclasses, the `latent_dist` of an autoencoder) are copied, never edited, and only
where something inside them changed.
"""

from __future__ import annotations

import copy
import operator
import types
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Slot", "swapped", "tensors_in"]

# By exact type, which is several times faster than isinstance: structures are walked at every call.
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type)
_PLAIN = (int, float, complex, bool, str, bytes, type(None), range, torch.dtype, torch.device, torch.Size)
_ATOMS = frozenset((*_PLAIN, *_FUNCTIONS))
_DEPTH = 16  # of containers in containers; something deeper holds itself, or was not made for tensors


class Slot:
    """Place number `index` of a tensor in a pattern."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


def swapped(value: Any, leaf: type | tuple[type, ...], swap: Callable[[Any], Any], *, fresh: bool = False) -> Any:
    """`value` with every instance of `leaf` in it replaced by `swap(instance)`.

    A container in which nothing changed is returned as the object it is, so that code that writes into a list it was
    given still does; with `fresh` lists, dicts and sets are copied all the same, so that running a call again does not
    write into them twice.
    """
    return _Walk(leaf, swap, fresh).walk(value, 0)


class _Walk:
    def __init__(self, leaf: type | tuple[type, ...], swap: Callable[[Any], Any], fresh: bool) -> None:
        self.leaf, self.swap, self.fresh = leaf, swap, fresh
        self.objects: dict[int, Any] = {}  # plain objects met so far: they may refer to each other

    def walk(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is tuple and depth <= _DEPTH:
            new = [self.walk(v, depth + 1) for v in value]
            return value if _same(new, value) else tuple(new)
        if kind is dict and depth <= _DEPTH:
            return self._dict(value, depth)
        if isinstance(value, self.leaf):
            return self.swap(value)
        if depth > _DEPTH or isinstance(value, (torch.Tensor, torch.nn.Module, type)):
            return value
        if isinstance(value, tuple):
            new = [self.walk(v, depth + 1) for v in value]
            if _same(new, value):
                return value
            return value._make(new) if hasattr(value, "_make") else kind(new)
        if isinstance(value, list):
            return self._list(value, depth)
        if isinstance(value, dict):
            return self._dict(value, depth)
        if kind is set:
            return set(value) if self.fresh else value
        return self._object(value, depth) if getattr(value, "__dict__", None) else value

    def _list(self, value: list[Any], depth: int) -> Any:
        new = [self.walk(v, depth + 1) for v in value]
        if not self.fresh and _same(new, value):
            return value
        if type(value) is list:
            return new
        result = copy.copy(value)
        result[:] = new
        return result

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        new = {k: self.walk(v, depth + 1) for k, v in value.items()}
        changed = {k: v for k, v in new.items() if v is not value[k]}
        if not changed and not self.fresh:
            return value
        if type(value) is dict:
            return new
        result: Any = copy.copy(value)
        for k, v in changed.items():
            result[k] = v
        if getattr(result, "__dict__", None):  # BaseOutput keeps every field twice: as an item and as an attribute
            vars(result).update(self._changed_attributes(result, depth))
        return result

    def _object(self, value: Any, depth: int) -> Any:
        if id(value) not in self.objects:
            self.objects[id(value)] = value
            changed = self._changed_attributes(value, depth)
            if changed:
                result = copy.copy(value)
                itself = {k: result for k, v in vars(value).items() if v is value}
                vars(result).update(
                    {**changed, **itself}
                )  # not setattr: frozen dataclasses and properties would refuse
                self.objects[id(value)] = result
        return self.objects[id(value)]

    def _changed_attributes(self, value: Any, depth: int) -> dict[str, Any]:
        fresh, self.fresh = self.fresh, False  # an object is copied only for the sake of its tensors
        try:
            new = {k: self.walk(v, depth + 1) for k, v in vars(value).items()}
        finally:
            self.fresh = fresh
        return {k: v for k, v in new.items() if v is not vars(value)[k]}


def _same(new: list[Any], old: tuple[Any, ...] | list[Any]) -> bool:
    return all(map(operator.is_, new, old))


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Every distinct tensor in a structure, in order of first appearance."""
    if isinstance(value, torch.Tensor):
        return [value]
    found: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.setdefault(id(tensor), tensor)
        return tensor

    swapped(value, torch.Tensor, note)
    return list(found.values())
