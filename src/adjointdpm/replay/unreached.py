"""Tensors that a call used but that are neither its arguments nor its weights.

`replay` carries gradients to what a call takes and to the module's weights.  A learnt tensor that reaches the network
another way (captured by a closure, an attribute of an attention processor) would silently stay without gradient, so the
first graph of each module is searched for such tensors.  The other direction, a tensor made inside a call that leaves
it by another way than the result (a stored attention map), is caught by a hook when a gradient comes through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from adjointdpm.errors import UnreachedGradient

__all__ = ["check_reached", "guard_leaf"]


def check_reached(
    name: str, outputs: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
) -> tuple[list[int], list[int]]:
    """Raise `UnreachedGradient` if the graph of `outputs` leads to a leaf other than `leaves` and `weights`.

    name: what was called, for the message.  leaves: stand for the call's differentiated arguments.
    Returns how often the graph uses each of `leaves` and of `weights`.
    """
    uses = {id(t): sum(t is output for output in outputs) for t in [*leaves, *weights]}
    borders = {t.grad_fn for t in weights if t.grad_fn is not None}  # weights computed from others: stop there
    for output in outputs:
        if output.grad_fn is None and id(output) not in uses:
            raise _error(name, output)
    todo: list[Any] = [t.grad_fn for t in outputs if t.grad_fn is not None]
    seen = set(todo) | borders
    while todo:
        for parent, _ in todo.pop().next_functions:
            if parent is None:
                continue
            leaf = getattr(parent, "variable", None)
            if leaf is not None and id(leaf) in uses:
                uses[id(leaf)] += 1
            elif leaf is not None:
                raise _error(name, leaf)
            elif parent not in seen:
                seen.add(parent)
                todo.append(parent)
    return [uses[id(t)] for t in leaves], [uses[id(t)] for t in weights]


def _error(name: str, leaf: torch.Tensor) -> UnreachedGradient:
    return UnreachedGradient(
        f"{name} uses a tensor of shape {tuple(leaf.shape)} ({leaf.dtype}) that requires grad but is neither an "
        "argument of the call nor one of the module's weights, so no gradient can be carried to it. Pass it as an "
        "argument, make it an nn.Parameter of the module (attention processors may be nn.Modules), or detach it if its "
        "gradient is not wanted."
    )


def guard_leaf(leaf: torch.Tensor, name: str, expected: dict[str, bool]) -> None:
    """Raise if a gradient reaches a call's inner leaf at any time but the call's own backward.

    expected: its "now" is true while that backward runs.
    """

    def hook(gradient: torch.Tensor) -> None:
        if not expected["now"]:
            raise UnreachedGradient(
                f"a gradient came into a call of {name} by another way than its result: a tensor made inside the call "
                "(a stored attention map or feature?) was used in the loss. Return it from the call, or take that "
                "module out of `replay`."
            )

    leaf.register_hook(hook)  # type: ignore[no-untyped-call]
