"""The state of a module at the time of a call: modes, hooks, scales, processors, patched methods.

Whatever a pipeline changes around a call and undoes at its end (LoRA scale, attention processor, train/eval mode,
offload hooks, a cache context) must be in force again when the call is replayed.  There is no list of such things, so
a `Snapshot` holds all of it: the attributes of every submodule, and of every plain object attached to one (an attention
processor, an offload hook), with lists, dicts and sets copied one level deep.  Weights are held as references.

Taking one costs about a microsecond a submodule; while nothing changes, all calls share one.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["PATCH_MARK", "Snapshot"]

PATCH_MARK = "_adjointdpm_replay"  # on the methods that `replay` puts on a module: they are no part of its state
_PATCHABLE = ("forward", "encode", "decode")
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_NOT_STATE = (
    torch.nn.Module,
    torch.Tensor,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
)
_ATOMS = frozenset((bool, *_PLAIN, types.FunctionType, types.BuiltinFunctionType, types.MethodType))
_Space = dict[str, Any]


def _own(space: _Space) -> _Space:
    """The attributes without the methods that `replay` itself put there."""
    if "forward" not in space:  # a patched module always has a patched `forward`
        return space
    return {k: v for k, v in space.items() if not (k in _PATCHABLE and hasattr(v, PATCH_MARK))}


def _refill(container: Any, content: Any) -> None:
    if isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        container.update(content)


class Snapshot:
    """Attributes of a module, its submodules and the objects attached to them, as they were on construction."""

    def __init__(self, root: torch.nn.Module, *, beside: Snapshot | None = None) -> None:
        """beside: also what this earlier snapshot holds and is no longer attached, and tensors with their graphs.

        Without it tensors are held without graphs: a feature that a module stored in one call would otherwise keep
        that call's graph alive in the snapshots of all later ones."""
        self.root = root
        self.modules: list[torch.nn.Module] = list(
            dict.fromkeys([*root.modules(), *(beside.modules if beside else ())])
        )
        self._spaces: list[tuple[_Space, _Space]] = []  # (the attributes as they are now, a shallow copy of then)
        self._filled: list[tuple[Any, Any]] = []  # (container, copy of its content then)
        self._empty: list[Any] = []  # containers that were empty then
        self._weights: list[tuple[dict[str, Any], tuple[Any, ...]]] = []
        self._copied: set[int] = set()
        self._with_graphs = beside is not None
        objects: dict[int, Any] = dict(beside._objects) if beside else {}
        self._objects: dict[int, Any] = objects
        for module in self.modules:
            self._add(vars(module), objects)
        for thing in list(objects.values()):
            self._add(vars(thing), {})

    def _add(self, space: _Space, objects: dict[int, Any]) -> None:
        then = dict(_own(space))
        self._spaces.append((space, then))
        for key, value in then.items():
            kind = type(value)
            if kind in _ATOMS:
                continue
            if isinstance(value, (dict, list, set)):
                if not value:
                    self._empty.append(value)
                elif id(value) not in self._copied:  # or it is one that several attention processors share
                    self._copied.add(id(value))
                    if isinstance(value, dict) and key in ("_parameters", "_buffers"):
                        self._weights.append((value, tuple(value.values())))
                        self._filled.append((value, value.copy()))
                    else:
                        self._filled.append((value, self._kept(value.copy())))
            elif isinstance(value, torch.Tensor):
                if value.grad_fn is not None and not self._with_graphs:
                    then[key] = value.detach()
            elif not isinstance(value, _NOT_STATE) and hasattr(value, "__dict__"):
                objects[id(value)] = value

    def _kept(self, items: Any) -> Any:
        """The same items, tensors without their graphs."""
        if not self._with_graphs and not isinstance(items, set):
            for key, value in list(items.items() if isinstance(items, dict) else enumerate(items)):
                if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                    items[key] = value.detach()
        return items

    def unchanged(self) -> bool:
        """Whether everything is now as it was.  Compares objects, not the values inside tensors."""
        try:
            return (
                not any(self._empty)
                and all(_own(space) == then for space, then in self._spaces)
                and all(map(_same_tensors, self._weights))
                and all(container == content for container, content in self._filled)
            )
        except (RuntimeError, ValueError, TypeError):  # a tensor or array was replaced: `==` has no single answer
            return False

    def matters_beside(self, earlier: Snapshot) -> bool:
        """Whether more than numbers and strings (a call counter) differs from an earlier snapshot."""
        if len(self._spaces) != len(earlier._spaces) or len(self._filled) != len(earlier._filled):
            return True
        for (_, new), (_, old) in zip(self._spaces, earlier._spaces, strict=True):
            if new.keys() != old.keys():
                return True
            for key, value in new.items():
                counts = isinstance(value, bool) or not isinstance(value, _PLAIN)
                if value is not old[key] and counts:
                    return True
        return any(
            a is not b or not _same_items(x, y) for (a, x), (b, y) in zip(self._filled, earlier._filled, strict=True)
        )

    def weights(self) -> dict[str, torch.Tensor]:
        """Every distinct parameter and buffer by name, as the objects that they were."""
        found: dict[str, torch.Tensor] = {}
        seen: set[int] = set()
        named = [(f"{path}." if path else "", vars(module)) for path, module in self.root.named_modules()]
        for kind in ("_parameters", "_buffers"):
            for path, space in named:
                for name, tensor in space[kind].items():
                    if tensor is not None and id(tensor) not in seen:
                        seen.add(id(tensor))
                        found[path + name] = tensor
        return found

    @contextmanager
    def in_force(self, *, leaves_a_trace: bool = True) -> Iterator[None]:
        """The state of then; what holds now comes back afterwards, and so does what the block itself changes.

        leaves_a_trace: whether the block may change anything; a call that was seen not to need not be looked at again.
        """
        now = self if self.unchanged() else Snapshot(self.root, beside=self)
        if now is not self:
            self._restore()
        try:
            yield
        finally:
            if (leaves_a_trace or now is not self) and not now.unchanged():
                now._restore()

    def _restore(self) -> None:
        for space, then in self._spaces:
            for key in [k for k in _own(space) if k not in then]:
                del space[key]
            space.update({k: v for k, v in then.items() if space.get(k, space) is not v})
        for container, content in self._filled:
            if not _same_items(container, content):
                _refill(container, content)
        for container in self._empty:
            if container:
                container.clear()


def _same_tensors(pair: tuple[dict[str, Any], tuple[Any, ...]]) -> bool:
    now, then = pair
    return len(now) == len(then) and all(map(operator.is_, now.values(), then))


def _same_items(a: Any, b: Any) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return all(k in b and b[k] is v for k, v in a.items())
    return all(x is y for x, y in zip(a, b, strict=True)) if isinstance(a, list) else bool(a == b)
