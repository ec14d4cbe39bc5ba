"""Which step of somebody's code stops the gradient.

An audit that silently got zero gradients would call any network robust.  While the network runs once, every torch
function is watched: the first that takes a tensor with a gradient and returns one without (a conversion to integers, a
detach, a comparison, numpy) is the place where the gradient ends; rounding keeps a gradient that is zero.  Functions
are named with the line of the caller's own code.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from adjointdpm.errors import NotDifferentiable
from adjointdpm.losses.users import blamed

__all__ = ["Stop", "check_gradient", "find_stop"]

FLAT = ("round", "floor", "ceil", "trunc", "sign", "heaviside", "fix", "floor_divide", "bucketize", "quantize")
ZERO = "has a gradient of zero everywhere"
OURS = ("/torch/", "/adjointdpm/tasks/audit/")  # frames that are not the user's code


@dataclass(frozen=True)
class Stop:
    """A step that lets no gradient through: the function's name, the line that calls it, and what it does."""

    function: str
    line: str
    what: str

    def __str__(self) -> str:
        return f"{self.function} ({self.line}) {self.what}"


class _Watch(TorchFunctionMode):
    """Sees every torch function that user code calls: what came out of what, and where the gradient went."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.made: dict[int, tuple[Tensor, list[Tensor], list[Stop]]] = {}  # tensors are kept, so that ids stay unique
        self.of_image = {id(image)}  # what depends on it; weights without a gradient stop nothing
        self.stops: list[Stop] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = _tensors((args, kwargs))
        depends = [t for t in taken if id(t) in self.of_image]
        carried = any(t.requires_grad for t in depends)
        result = func(*args, **(kwargs or {}))
        returned = _tensors(result)
        stop = self._stop(_name(func), returned) if carried and returned else None
        if stop is not None:
            self.stops.append(stop)
        for tensor in returned:
            if depends:
                self.of_image.add(id(tensor))
            before = self.made.get(id(tensor))  # changed in place
            sources = [*taken, *(before[1] if before else [])]
            stops = [*(before[2] if before else []), *([stop] if stop else [])]
            self.made[id(tensor)] = (tensor, [t for t in sources if t is not tensor], stops)
        return result

    def _stop(self, name: str, returned: list[Tensor]) -> Stop | None:
        if any(t.requires_grad for t in returned):
            flat = name.rpartition(".")[2].rstrip("_") in FLAT
            return Stop(name, _line(), ZERO) if flat else None
        if not torch.is_grad_enabled():
            return Stop(name, _line(), "runs under torch.no_grad()")
        dtype = returned[0].dtype
        kind = "returns a tensor without a gradient" if dtype.is_floating_point else f"returns {dtype}"
        return Stop(name, _line(), kind)

    def on_the_way_to(self, result: Any) -> list[Stop]:
        """The stops that `result` depends on, nearest to the image first; all of them if it depends on none."""
        seen: set[int] = set()
        waiting, found = _tensors(result), []
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in seen or id(tensor) not in self.made:
                continue
            seen.add(id(tensor))
            _, sources, stops = self.made[id(tensor)]
            found += stops
            waiting += sources
        return [stop for stop in self.stops if stop in found] or self.stops


def _tensors(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, (list, tuple)):
        return [t for part in found for t in _tensors(part)]
    return []


def _name(func: Any) -> str:
    found = resolve_name(func) or getattr(func, "__name__", repr(func))
    return str(found).removeprefix("torch.")


def _line() -> str:
    """File and line of the innermost frame that is neither torch's nor ours."""
    for frame in reversed(traceback.extract_stack(limit=40)):
        if not any(part in frame.filename for part in OURS):
            return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return "?"


def find_stop(network: Callable[[Tensor], Any], images: Tensor, zero: bool) -> Stop | None:
    """The step of `network` at which the gradient of (B, 3, H, W) images ends, or becomes zero if `zero`."""
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), _Watch(leaf) as watch:
        result = network(leaf)
    found = watch.on_the_way_to(result)
    wanted = [stop for stop in found if (stop.what == ZERO) == zero]
    return next(iter(wanted or found), None)


def check_gradient(
    network: Callable[[Tensor], Any], outputs: Callable[[Any], Tensor], images: Tensor, name: str
) -> None:
    """Raise `NotDifferentiable` naming the step, unless a gradient reaches every image; errors as `blamed`.

    Args:
        network: takes images (B, 3, H, W).
        outputs: turns what it returns into a tensor, one row for each image.
        images: a few images in [0, 1].
        name: of the network, for messages.
    """
    probe = images.detach().clone().requires_grad_()
    with torch.enable_grad(), blamed(name):
        found = outputs(network(probe))
    if not found.requires_grad:
        raise NotDifferentiable(f"{name} has no gradient: {_which(network, images, zero=False)}")
    # a weight that differs between the outputs: the sum of probabilities would be constant
    weights = torch.linspace(1, 2, found[0].numel(), dtype=found.dtype, device=found.device).reshape(found[0].shape)
    with blamed(f"the backward of {name}"):
        (gradient,) = torch.autograd.grad((found * weights).sum(), probe, allow_unused=True)
    if gradient is None:
        raise NotDifferentiable(f"{name} does not depend on the images: {_which(network, images, zero=False)}")
    if not bool(torch.isfinite(gradient).all()):
        raise NotDifferentiable(f"{name}: its gradient with respect to the image holds NaN or infinite values")
    if not bool(gradient.any()):
        raise NotDifferentiable(f"{name} has a gradient of zero everywhere: {_which(network, images, zero=True)}")


def _which(network: Callable[[Tensor], Any], images: Tensor, zero: bool) -> str:
    stop = find_stop(network, images, zero)
    if stop is None:
        return "no single step was found to blame; audits need a network that is differentiable from image to output"
    return f"{stop}. Replace this step by a differentiable one"
