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
from adjointdpm.pipelines.components import denoisers_of, replayed_modules
from adjointdpm.pipelines.inputs import Call
from adjointdpm.pipelines.outcome import Counts, Outcome, outcome_of
from adjointdpm.pipelines.private import NumpyTap, Taps, private_copy, private_globals, schedulers_of
from adjointdpm.pipelines.wrt import Selection, frozen, frozen_when_replayed, unasked
from adjointdpm.replay import replay
from adjointdpm.replay.patch import Patches

__all__ = ["run"]

TENSORS_OUT = {"output_type": "pt", "return_dict": False}


def run(pipe: Any, call: Call, selection: Selection, gradient: str, device: torch.device) -> Outcome:
    """Run the pipeline on checked arguments.

    Args:
        pipe: the user's pipeline; left as it is.
        call: arguments as `inputs.check_call` passed them.
        selection: weights that keep requiring grad.
        gradient: "exact" (network calls replayed) or "full" (plain backpropagation, the reference).
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
            if gradient == "exact" and torch.is_grad_enabled():
                stack.enter_context(frozen_when_replayed(replayed_modules(pipe).values(), left_out))
                counts = [stack.enter_context(replay(*group, keep="last")).stats for group in _groups(pipe, device)]
            stack.enter_context(frozen(left_out))
            stack.enter_context(counter)
            result = function(twin, **arguments)
    except AdjointDPMError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _explain(error, pipe, twin)
        raise
    return outcome_of(result, taps, counter.calls, Counts(*counts))


def _groups(pipe: Any, device: torch.device) -> list[list[torch.nn.Module]]:
    """Networks that share one kept graph, that of their last call.

    Decoding comes last.  On a CPU the denoiser's last graph stays beside it, which saves one recomputation; on a device
    that has less memory than time, where an autoencoder's graph is the largest of all, it does not.
    """
    networks, denoisers = replayed_modules(pipe), denoisers_of(pipe)
    if device.type != "cpu":
        return [list(networks.values())]
    groups = [list(denoisers.values()), [m for name, m in networks.items() if name not in denoisers]]
    return [group for group in groups if group]


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
