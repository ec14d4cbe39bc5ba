"""The pipeline road: the pipeline's own `__call__`, with autograd on and every network call replayed in backward.

Nothing of the sampler is written again here: the authors' code runs unmodified, so every pipeline and every scheduler
gives the image that it always gives, and the gradient is that of exactly this image.  Memory stays constant in the
number of steps because only the network calls are large, and `replay` keeps none of their graphs but the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from adjointdpm.errors import AdjointDPMError, InvalidInput, NotDifferentiable
from adjointdpm.pipelines.budget import budget_of
from adjointdpm.pipelines.components import denoisers_of, replayed_modules
from adjointdpm.pipelines.inputs import Call, latent_shape
from adjointdpm.pipelines.outcome import Counts, Outcome, outcome_of
from adjointdpm.pipelines.private import NumpyTap, Taps, private_copy, private_globals, schedulers_of
from adjointdpm.pipelines.settings import Settings
from adjointdpm.pipelines.wrt import Selection, frozen, frozen_when_replayed, unasked
from adjointdpm.replay import replay
from adjointdpm.replay.keep import Keep, KeepLast
from adjointdpm.replay.patch import Patches

__all__ = ["run"]

TENSORS_OUT = {"output_type": "pt", "return_dict": False}


def run(pipe: Any, call: Call, selection: Selection, settings: Settings, device: torch.device) -> Outcome:
    """Run the pipeline on checked arguments.

    Args:
        pipe: the user's pipeline; left as it is.
        call: arguments as `inputs.check_call` passed them.
        selection: weights that keep requiring grad.
        settings: gradient "exact" (network calls replayed) or "full" (plain backpropagation, the reference), memory and
            branches.
        device: where the pipeline runs.

    Raises:
        NotDifferentiable: the scheduler does not fit the pipeline.
        InvalidInput: the pipeline's own check of its inputs failed.
    """
    taps = Taps()
    twin = private_copy(pipe, taps)
    arguments = {**call.arguments, **{k: v for k, v in TENSORS_OUT.items() if k in call.parameters}}
    function = _with_noise(pipe, type(twin).__call__, arguments, call)
    _watch_steps(pipe, arguments, call, taps)
    counter, left_out = _Counter(pipe), unasked(pipe, selection)
    counts: list[Any] = []
    try:
        with ExitStack() as stack:
            stack.enter_context(_undone_after_failure(pipe))
            stack.enter_context(_numpy_allowed(pipe, taps))
            if settings.gradient == "exact" and torch.is_grad_enabled():
                stack.enter_context(frozen_when_replayed(replayed_modules(pipe).values(), left_out))
                for replayed in _replays(pipe, call, settings, device):
                    counts.append(stack.enter_context(replayed).stats)
            stack.enter_context(frozen(left_out))
            stack.enter_context(counter)
            result = function(twin, **arguments)
    except AdjointDPMError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _explain(error, pipe, twin)
        raise
    return outcome_of(result, taps, counter.calls, Counts(*counts))


def _replays(pipe: Any, call: Call, settings: Settings, device: torch.device) -> list[replay]:
    """One `replay` for the denoisers and one for the other networks; within a memory budget, if there is one.

    Without a budget each keeps the graph of its last call, except on a device that has less memory than time: decoding
    comes last, an autoencoder's graph is the largest of all, and the denoiser's would be alive beside it.
    """
    networks, denoisers = replayed_modules(pipe), denoisers_of(pipe)
    others = [module for name, module in networks.items() if name not in denoisers]
    parts = 2 if settings.branches == "sequential" else 1
    budget: Keep | None = budget_of(pipe, settings, _latent_shape(pipe, call))
    if budget is None and device.type != "cpu":
        budget = KeepLast(1, frozenset())  # one for both
    groups = [(list(denoisers.values()), parts), (others, 1)]
    return [replay(*modules, memory=budget, split=parts) for modules, parts in groups if modules]


def _latent_shape(pipe: Any, call: Call) -> tuple[int, ...] | None:
    return latent_shape(pipe, call.batch, call.arguments.get("height"), call.arguments.get("width"))


class _Counter(Patches):
    """Counts denoiser calls.  A patch, which a replay does not take for the module's state, as it would a hook."""

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.denoisers, self.calls = denoisers_of(pipe).values(), 0

    def __enter__(self) -> None:
        for module in self.denoisers:
            self.put(module, self._count)

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _count(self, _module: Any, name: str, method: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        self.calls += name == "forward"
        return method(*args, **kwargs)


def _with_noise(pipe: Any, function: Callable[..., Any], arguments: dict[str, Any], call: Call) -> Callable[..., Any]:
    """Hand `latents` to a pipeline that has no such argument, as the first noise that it draws."""
    if "latents" in call.parameters or "latents" not in arguments:
        return function
    draw = getattr(function, "__globals__", {}).get("randn_tensor")
    if draw is None:
        raise InvalidInput(
            f"{type(pipe).__name__} draws its noise itself and takes no latents; use seed= or generator="
        )
    waiting = [arguments.pop("latents")]

    def first_is_given(shape: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if waiting and tuple(shape) == tuple(waiting[0].shape):
            return waiting.pop()  # type: ignore[no-any-return]
        return draw(shape, *args, **kwargs)  # type: ignore[no-any-return]

    return private_globals(function, randn_tensor=first_is_given)


def _watch_steps(pipe: Any, arguments: dict[str, Any], call: Call, taps: Taps) -> None:
    """See the latents at the end of each step, after the user's own callback changed them."""
    allowed = getattr(pipe, "_callback_tensor_inputs", ())
    if "callback_on_step_end" not in call.parameters or "latents" not in allowed:
        return
    user = arguments.get("callback_on_step_end")
    asked = list(
        getattr(user, "tensor_inputs", None) or arguments.get("callback_on_step_end_tensor_inputs") or ["latents"]
    )

    def callback(twin: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents = tensors["latents"]
        changed = {} if user is None else user(twin, step, time, {name: tensors[name] for name in asked})
        taps.stepped = changed.get("latents", latents)
        return changed  # type: ignore[no-any-return]

    arguments["callback_on_step_end"] = callback
    arguments["callback_on_step_end_tensor_inputs"] = [*asked, *({"latents"} - set(asked))]


@contextmanager
def _numpy_allowed(pipe: Any, taps: Taps) -> Iterator[None]:
    """Pipelines without an image processor may only return numpy; the others need no such help."""
    if hasattr(pipe, "image_processor") or hasattr(pipe, "video_processor"):
        yield
    else:
        with NumpyTap(taps):
            yield


@contextmanager
def _undone_after_failure(pipe: Any) -> Iterator[None]:
    """Undo what a pipeline changes in its call and would have undone at its end: a network's precision, LoRA scale."""
    networks = list(replayed_modules(pipe).values())
    dtypes = [next((p.dtype for p in m.parameters()), None) for m in networks]
    layers = [m for network in vars(pipe).values() if isinstance(network, torch.nn.Module) for m in network.modules()]
    scales: list[tuple[Any, Any]] = [(m, getattr(m, "scaling", None)) for m in layers]
    scales = [(m, dict(scaling)) for m, scaling in scales if isinstance(scaling, dict)]
    try:
        yield
    except BaseException:
        for network, dtype in zip(networks, dtypes, strict=True):
            if dtype is not None and next(network.parameters()).dtype != dtype:
                network.to(dtype)
        for layer, scaling in scales:
            layer.scaling.update(scaling)
        raise


def _explain(error: Exception, pipe: Any, twin: Any) -> None:
    """Raise in our words where the pipeline's input check, or a scheduler that does not fit, is the cause."""
    schedulers = {id(s): type(s).__name__ for s in schedulers_of(twin).values()}
    frames, link = [], error.__traceback__
    while link is not None:
        frames.append(link.tb_frame)
        link = link.tb_next
    if any(frame.f_code.co_name == "check_inputs" for frame in frames):
        raise InvalidInput(str(error)) from error
    blamed = [name for name in schedulers.values() if name in str(error)]
    blamed += [schedulers[id(f.f_locals.get("self"))] for f in frames if id(f.f_locals.get("self")) in schedulers]
    if blamed:
        raise NotDifferentiable(
            f"{type(pipe).__name__} cannot run {blamed[-1]} with these settings: {type(error).__name__}: {error}"
        ) from error
