"""Conditioning of any shape: a tensor, or dicts, lists and tuples of tensors and plain values, mapped leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["tensors", "tree_map", "tree_zip"]


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """`function` on every leaf (whatever is not a dict, list or tuple), in a structure of the same types."""
    return tree_zip(lambda leaf, _: function(leaf), tree, tree)


def tree_zip(function: Callable[[Any, Any], Any], first: Any, second: Any, where: str = "cond") -> Any:
    """`function` on pairs of leaves of two trees of the same structure.

    Raises:
        InvalidInput: the structures differ; the message names the place.
    """
    if isinstance(first, dict):
        if not isinstance(second, dict) or first.keys() != second.keys():
            raise InvalidInput(f"{where}: cond and uncond need the same keys, got {_name(first)}, {_name(second)}")
        return type(first)({k: tree_zip(function, first[k], second[k], f"{where}[{k!r}]") for k in first})
    if isinstance(first, list | tuple):
        if not isinstance(second, list | tuple) or len(first) != len(second):
            raise InvalidInput(f"{where}: cond and uncond need the same items, got {_name(first)}, {_name(second)}")
        items = [tree_zip(function, a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(first, second, strict=True))]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    if isinstance(second, dict | list | tuple):
        raise InvalidInput(f"{where}: cond and uncond need the same structure, got {_name(first)}, {_name(second)}")
    return function(first, second)


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in a tree."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from tensors(value)
    elif isinstance(tree, Tensor):
        yield tree


def _name(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"keys {list(tree)}"
    return f"{len(tree)} items" if isinstance(tree, list | tuple) else type(tree).__name__
