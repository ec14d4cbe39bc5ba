"""A private copy of a pipeline whose `__call__` keeps gradients, so that nothing of a run stays in the user's objects.

diffusers decorates `__call__` (and a few helpers) with `torch.no_grad()`.  `functools.wraps` leaves the function that
was decorated in `__wrapped__`, so the code that the authors wrote can run as it is, with autograd on.  The copy is
shallow (the networks are the user's own, not a second set of weights) but for the schedulers: those carry the state of
a run (`_step_index`, `model_outputs`), which with autograd on would hold a graph.

Safety checker and watermark are taken out of the copy only because they break the graph (they leave torch for numpy);
`result.Generated` applies the user's own ones to a detached image.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from adjointdpm.errors import NotDifferentiable

__all__ = ["Taps", "class_without_no_grad", "pipeline_function", "private_copy", "schedulers_of"]

BREAKS_GRAPH = ("safety_checker", "watermark", "watermarker")


@dataclass
class Taps:
    """What was seen while the pipeline ran, with graph."""

    decoded: list[torch.Tensor] = field(default_factory=list)  # what the image processor was given
    normalized: bool = True  # whether that is in [-1, 1]
    stepped: torch.Tensor | None = None  # what the scheduler returned last
    clamped: tuple[torch.Tensor, torch.Tensor] | None = None  # last clamp: before, after
    to_numpy: torch.Tensor | None = None  # last tensor that left for numpy
    interrupted: bool = False  # a callback told the pipeline to stop


def _is_grad_mode_wrapper(function: Any) -> bool:
    """Whether `function` is what `@torch.no_grad()` or `@torch.inference_mode()` makes of a function."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_name == "decorate_context" and hasattr(function, "__wrapped__")


def _undecorated(function: Any) -> Any:
    while _is_grad_mode_wrapper(function):
        function = function.__wrapped__
    return function


def pipeline_function(cls: type) -> Callable[..., Any]:
    """The `__call__` of a pipeline class as its authors wrote it, without torch's grad-mode decorators.

    Raises:
        NotDifferentiable: there is none, or another decorator sits outside torch's, which cannot be taken off.
    """
    function = cls.__call__
    if not isinstance(function, types.FunctionType):
        raise NotDifferentiable(f"{cls.__name__} has no __call__ written in Python; expected a diffusers pipeline")
    function = inner = _undecorated(function)
    while hasattr(inner, "__wrapped__"):
        if _is_grad_mode_wrapper(inner):
            outer = function.__code__.co_qualname.split(".<locals>.")[-2:][0]
            raise NotDifferentiable(
                f"{cls.__name__}.__call__ is wrapped by the decorator '{outer}' outside torch.no_grad(), so gradients "
                "cannot be switched on inside it; put that decorator inside, or pass a pipeline without it"
            )
        inner = inner.__wrapped__
    return function  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=64)
def class_without_no_grad(cls: Any) -> Any:
    """A subclass of the pipeline class, of the same name, in which no method switches gradients off."""
    methods: dict[str, Any] = {"__call__": pipeline_function(cls)}
    for name in dir(cls):
        found = getattr(cls, name, None)
        if isinstance(found, types.FunctionType) and _is_grad_mode_wrapper(found):
            methods.setdefault(name, _undecorated(found))
    return type(cls.__name__, (cls,), {**methods, "__module__": cls.__module__, "__qualname__": cls.__qualname__})


def schedulers_of(pipe: Any) -> dict[str, Any]:
    """The pipeline's schedulers by attribute name."""
    return {name: value for name, value in vars(pipe).items() if _is_scheduler(value)}


def _is_scheduler(value: Any) -> bool:
    return any(cls.__name__ == "SchedulerMixin" for cls in type(value).__mro__)


def _fresh(scheduler: Any) -> Any:
    try:
        return copy.deepcopy(scheduler)
    except RuntimeError:  # it holds tensors of somebody's graph, which cannot be copied
        return type(scheduler).from_config(scheduler.config)


def private_copy(pipe: Any, taps: Taps, memo: dict[int, Any] | None = None) -> Any:
    """A shallow copy of `pipe` with schedulers of its own and gradients on; `taps` sees its image and latents.

    Args:
        pipe: a diffusers pipeline; it is not changed.
        taps: filled while the copy runs.
        memo: copies made so far, by id of the original (a pipeline made of pipelines shares its schedulers).
    """
    memo = {} if memo is None else memo
    twin = copy.copy(pipe)
    twin.__class__ = class_without_no_grad(type(pipe))  # type: ignore[arg-type]
    parts = vars(twin)  # written directly: the pipeline's own __setattr__ would register what it is given
    for name, scheduler in schedulers_of(pipe).items():
        if id(scheduler) not in memo:
            memo[id(scheduler)] = _watched_scheduler(_fresh(scheduler), taps)
        parts[name] = memo[id(scheduler)]
    for name, value in list(parts.items()):
        if name in BREAKS_GRAPH:
            parts[name] = None
        elif hasattr(value, "postprocess") and hasattr(value, "config"):
            parts[name] = _watched_processor(copy.copy(value), taps)
        elif name.startswith("tokenizer") and value is not None:
            parts[name] = _bounded_tokenizer(value, getattr(pipe, name.replace("tokenizer", "text_encoder"), None))
        elif value is not pipe and hasattr(value, "components") and hasattr(value, "register_modules"):
            parts[name] = private_copy(value, taps, memo)
    if isinstance(parts.get("_progress_bar_config"), dict):
        parts["_progress_bar_config"] = dict(parts["_progress_bar_config"])
    return twin


def _watched_scheduler(scheduler: Any, taps: Taps) -> Any:
    step = getattr(scheduler, "step", None)
    if step is None:
        return scheduler

    @functools.wraps(step)  # pipelines read the signature of `step`
    def watched(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        first = result[0] if isinstance(result, tuple) else getattr(result, "prev_sample", None)
        taps.stepped = first if isinstance(first, torch.Tensor) else None
        return result

    vars(scheduler)["step"] = watched
    return scheduler


def _watched_processor(processor: Any, taps: Taps) -> Any:
    postprocess = processor.postprocess

    @functools.wraps(postprocess)
    def watched(image: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(image, torch.Tensor):
            taps.decoded.append(image)
            taps.normalized = bool(getattr(processor.config, "do_normalize", True))
        return postprocess(image, *args, **kwargs)

    vars(processor)["postprocess"] = watched
    return processor


def _bounded_tokenizer(tokenizer: Any, text_encoder: Any) -> Any:
    """A tokenizer saved without a length limit (transformers writes 1e30 then) takes the text encoder's."""
    limit = getattr(getattr(text_encoder, "config", None), "max_position_embeddings", None)
    if isinstance(limit, int) and getattr(tokenizer, "model_max_length", 0) > 10**9:
        tokenizer = copy.copy(tokenizer)
        tokenizer.model_max_length = limit
    return tokenizer


def private_globals(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """The same function with some of its module's names replaced, for this one copy of it only."""
    assert isinstance(function, types.FunctionType)
    twin = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


class NumpyTap(torch.overrides.TorchFunctionMode):
    """Lets a pipeline that only returns numpy arrays or PIL images run with autograd on; keeps the tensor it ended in.

    `Tensor.numpy()` refuses a tensor with a graph; here it gives the values and `taps` keeps the tensor.
    """

    def __init__(self, taps: Taps):
        super().__init__()
        self.taps = taps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.numpy:
            self.taps.to_numpy = args[0]
            return func(args[0].detach(), *args[1:], **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if func in (torch.Tensor.clamp, torch.clamp):
            self.taps.clamped = (args[0], result)
        return result


def modules_of(pipe: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """(name, network) of every network of the pipeline, those of the pipelines inside it too; each network once."""
    seen: set[int] = set()
    for name, value in vars(pipe).items():
        if isinstance(value, torch.nn.Module) and id(value) not in seen:
            seen.add(id(value))
            yield name, value
    for name, value in vars(pipe).items():
        if hasattr(value, "components") and hasattr(value, "register_modules"):
            for inner, module in modules_of(value):
                if id(module) not in seen:
                    seen.add(id(module))
                    yield f"{name}.{inner}", module
