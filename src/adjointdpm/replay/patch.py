"""Methods put on module instances for the duration of a `with` block, and taken off again."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch

from adjointdpm.errors import PerformanceWarning
from adjointdpm.replay.state import PATCH_MARK

__all__ = ["Patches"]

_METHODS = ("forward", "encode", "decode")
_ABSENT: Any = object()
Handler = Callable[[torch.nn.Module, str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class _Patch:
    """Stands in for a method; hands its calls to the handler, or to the method itself once switched off."""

    def __init__(self, module: torch.nn.Module, name: str, original: Callable[..., Any], handler: Handler) -> None:
        functools.update_wrapper(self, original)  # so that `inspect.signature` shows the method's own
        self._module, self._name, self._original = module, name, original
        self.handler: Handler | None = handler
        setattr(self, PATCH_MARK, True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.handler is None:
            return self._original(*args, **kwargs)
        return self.handler(self._module, self._name, self._original, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the module (for an EMA, say) gets its own method, not one that calls the original module."""
        copied = memo.get(id(self._module))
        plain = getattr(type(self._module), self._name)
        return self._original if copied is None else types.MethodType(plain, copied)


class Patches:
    """All patches of one `replay`."""

    def __init__(self) -> None:
        self._undo: list[tuple[torch.nn.Module, str, Any, Any]] = []  # module, attribute, its own before, ours

    def put(self, module: torch.nn.Module, handler: Handler) -> None:
        """Patch `forward`, and `encode` and `decode` where the module has them."""
        for name in _METHODS:
            original = getattr(module, name, None)
            if callable(original):
                self._set(module, name, _Patch(module, name, original, handler))
        if getattr(module, "_compiled_call_impl", None) is not None:
            warnings.warn(
                f"{type(module).__name__} was compiled in place by module.compile(), which cannot be replayed: its "
                "calls run uncompiled in this block. Pass compiled = torch.compile(module) and call that instead.",
                PerformanceWarning,
                stacklevel=4,
            )
            self._set(module, "_compiled_call_impl", None)

    def _set(self, module: torch.nn.Module, name: str, value: Any) -> None:
        self._undo.append((module, name, vars(module).get(name, _ABSENT), value))
        vars(module)[name] = value  # past __setattr__, which compiled modules redirect to what they wrap

    def remove(self) -> None:
        """Put everything back as it was."""
        for module, name, own, ours in reversed(self._undo):
            if isinstance(ours, _Patch):
                ours.handler = None
            if vars(module).get(name) is not ours:
                continue  # somebody wrapped it meanwhile: their wrapper stays, and ours in it does nothing any more
            if own is _ABSENT:
                del vars(module)[name]
            else:
                vars(module)[name] = own
        self._undo.clear()
