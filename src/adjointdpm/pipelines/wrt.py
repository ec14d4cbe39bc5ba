"""Which tensors get a gradient: what requires grad, as in PyTorch, restricted by `wrt=`.

`wrt` holds any of "x_T" (the noise), "cond" (every conditioning tensor of the call), "guidance" (the guidance scale),
"weights" (all weights of the denoisers), and name patterns such as "unet.*attn2*" or "text_encoder.*" for weights, in
the manner of `fnmatch` on `component.parameter`.  Weights that are not asked for are frozen while the pipeline runs,
so their layers' inputs are not kept, and require grad again afterwards.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from adjointdpm.errors import InputWarning, InvalidInput, PerformanceWarning, UnreachedGradient
from adjointdpm.pipelines.components import denoisers_of
from adjointdpm.pipelines.private import modules_of
from adjointdpm.replay.state import PATCH_MARK

__all__ = [
    "Selection",
    "frozen",
    "frozen_when_replayed",
    "meant_as_a_whole",
    "reached_nodes",
    "require_reached",
    "select",
    "unasked",
    "without_grad",
]

GROUPS = ("x_T", "cond", "guidance", "weights")
NOT_IN_GENERATION = ("encoder.", "quant_conv.")  # of an autoencoder: it only decodes here
_warned: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


@dataclass(frozen=True)
class Selection:
    """What a generator differentiates.

    `weights` are the parameters by full name; `patterns` says which of them each name pattern stands for; the three
    flags say whether tensors of that kind keep their `requires_grad` during a call.
    """

    x_T: bool = True
    cond: bool = True
    guidance: bool = True
    weights: dict[str, torch.nn.Parameter] = field(default_factory=dict)
    patterns: dict[str, tuple[str, ...]] = field(default_factory=dict)


def _named_weights(pipe: Any) -> dict[str, torch.nn.Parameter]:
    return {f"{name}.{key}": p for name, module in modules_of(pipe) for key, p in module.named_parameters()}


def _normalized(wrt: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if wrt is None:
        return None
    names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidInput(
            f"wrt={wrt!r}: expected names out of {', '.join(GROUPS)} or weight patterns, or None for all"
        )
    return names


def select(pipe: Any, wrt: str | Iterable[str] | None) -> Selection:
    """What `wrt` means for this pipeline.  Named weights that are frozen are unfrozen, and a warning says so.

    Raises:
        InvalidInput: a pattern that matches no weight; the message lists near names.
        UnreachedGradient: a pattern that only matches an autoencoder's encoder, which generation does not run.
    """
    named = _named_weights(pipe)
    asked = _normalized(wrt)
    if asked is None:
        selected = {name: p for name, p in named.items() if p.requires_grad}
        _warn_of_whole_denoisers(pipe)
        return Selection(weights=selected)
    patterns = {name: _matches(name, named) for name in asked if name not in GROUPS}
    if "weights" in asked:
        patterns["weights"] = tuple(
            f"{n}.{key}" for n, m in denoisers_of(pipe).items() for key, _ in m.named_parameters()
        )
    weights = {name: named[name] for matched in patterns.values() for name in matched}
    _unfreeze(weights)
    return Selection("x_T" in asked, "cond" in asked, "guidance" in asked, weights, patterns)


def _matches(pattern: str, named: dict[str, torch.nn.Parameter]) -> tuple[str, ...]:
    matched = tuple(name for name in named if fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}."))
    if not matched:
        near = difflib.get_close_matches(pattern, [*GROUPS, *named], n=4, cutoff=0.3)
        raise InvalidInput(
            f"wrt={pattern!r} is none of {', '.join(GROUPS)} and matches no weight; near names: {', '.join(near)}"
        )
    if all(name.partition(".")[2].startswith(NOT_IN_GENERATION) for name in matched):
        raise UnreachedGradient(
            f"wrt={pattern!r} only matches weights that generation does not run ({matched[0]}, …): no gradient "
            "reaches them"
        )
    return matched


def _unfreeze(weights: dict[str, torch.nn.Parameter]) -> None:
    frozen_ones = [name for name, p in weights.items() if not p.requires_grad]
    for name in frozen_ones:
        weights[name].requires_grad_(True)
    if frozen_ones:
        warnings.warn(
            f"wrt names {len(frozen_ones)} frozen weights ({frozen_ones[0]}, …): they require grad from now on; "
            "requires_grad_(False) freezes them again",
            InputWarning,
            stacklevel=5,
        )


def _warn_of_whole_denoisers(pipe: Any) -> None:
    for name, module in denoisers_of(pipe).items():
        parameters = list(module.parameters())
        if parameters and module not in _warned and all(p.requires_grad for p in parameters):
            _warned.add(module)
            size = sum(p.numel() * p.element_size() for p in parameters)
            warnings.warn(
                f"all {len(parameters)} weights of pipe.{name} require grad (from_pretrained leaves them so): every "
                f"backward fills {size / 2**20:.0f} MiB of weight gradients, keeps the input of every layer and adds a "
                f"second matrix product to each; restrict it with wrt=('x_T', 'cond') or "
                f"pipe.{name}.requires_grad_(False)",
                PerformanceWarning,
                stacklevel=5,
            )


def meant_as_a_whole(denoiser: torch.nn.Module) -> None:
    """All weights of this one are trained on purpose: no warning about the cost of it."""
    _warned.add(denoiser)


Unasked = dict[torch.nn.Module, list[torch.nn.Parameter]]


def unasked(pipe: Any, selection: Selection) -> Unasked:
    """Of each network the weights that require grad but were not asked for."""
    kept = {id(p) for p in selection.weights.values()}
    return {
        module: [p for p in module.parameters() if p.requires_grad and id(p) not in kept]
        for _, module in modules_of(pipe)
    }


@contextmanager
def frozen(left_out: Unasked) -> Iterator[None]:
    """Within, only what was asked for requires grad; afterwards, also after an exception, all is as before."""
    with without_grad([p for parameters in left_out.values() for p in parameters]):
        yield


@contextmanager
def without_grad(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Within, these do not require grad; afterwards those that did do again."""
    changed = [p for p in parameters if p.requires_grad]
    try:
        for parameter in changed:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


@contextmanager
def frozen_when_replayed(modules: Iterable[torch.nn.Module], left_out: Unasked) -> Iterator[None]:
    """Calls that begin within run without grad for the weights left out, also when they are replayed later on.

    `frozen` ends with the forward; a replay in backward would otherwise find every weight requiring grad again, and
    keep the inputs of layers whose weights nobody asked about.  Enter it before `replay`, which then takes the methods
    put here for the module's own; the mark keeps them out of the state that a replay restores.
    """
    patched: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in modules:
            parameters = left_out[module]
            for name in ("forward", "encode", "decode") if parameters else ():
                method = getattr(module, name, None)
                if callable(method):
                    patched.append((vars(module), name, vars(module).get(name)))
                    vars(module)[name] = _with_frozen(method, parameters)
        yield
    finally:
        for space, name, own in reversed(patched):
            if own is None:
                space.pop(name, None)
            else:
                space[name] = own


def _with_frozen(method: Callable[..., Any], parameters: list[torch.nn.Parameter]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with without_grad(parameters):
            return method(*args, **kwargs)

    setattr(call, PATCH_MARK, True)
    return call


def reached_nodes(outputs: Sequence[torch.Tensor]) -> set[Any]:
    """All nodes of the graph behind some tensors."""
    stack = [t.grad_fn for t in outputs if t.grad_fn is not None]
    seen: set[Any] = set(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return seen


def require_reached(
    outputs: Sequence[torch.Tensor], inputs: dict[str, torch.Tensor], selection: Selection, hints: dict[str, str]
) -> None:
    """Raise where a tensor of the call that requires grad, or a weight named by pattern, is not behind the outputs.

    Args:
        outputs: image and latents.
        inputs: the tensors that were handed to the pipeline, by argument name; non-leaf ones.
        selection: the weights asked for.
        hints: for an argument's name, why it may not be reached.

    Raises:
        UnreachedGradient: naming the argument or the pattern.
    """
    nodes = reached_nodes(outputs)
    for name, tensor in inputs.items():
        if tensor.grad_fn is not None and tensor.grad_fn not in nodes:
            why = hints.get(name, "the pipeline does not use it, or turns it into a number on its way")
            raise UnreachedGradient(f"{name} requires grad but no gradient can reach it: {why}; pass {name}.detach()")
    if not selection.patterns:
        return
    leaves = {id(node.variable) for node in nodes if hasattr(node, "variable")}
    for pattern, names in selection.patterns.items():
        if not any(id(selection.weights[name]) in leaves for name in names):
            raise UnreachedGradient(
                f"wrt={pattern!r}: none of its {len(names)} weights took part in this image ({names[0]}, …); "
                "text encoders only run when the prompt is given as text"
            )
