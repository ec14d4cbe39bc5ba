"""The classifier under audit: found by name, tried before any work, called in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput
from adjointdpm.losses.load import load_function
from adjointdpm.losses.users import blamed, trial
from adjointdpm.tasks.audit.adapters import adapted, device_of, from_folder, from_onnx, module_in
from adjointdpm.tasks.audit.config import OutputKind
from adjointdpm.tasks.audit.outputs import as_logits, recognise, tensor_of
from adjointdpm.tasks.audit.responsible import local_only, refuse_address
from adjointdpm.tasks.audit.stops import check_gradient

__all__ = ["ClassifierUnderAudit", "lent", "load_object"]


@contextmanager
def lent(*modules: nn.Module | None) -> Iterator[None]:
    """Within, the caller's modules are in evaluation mode and their weights take no gradient; then all is as before."""
    known = [module for module in modules if module is not None]
    modes = [(part, part.training) for module in known for part in module.modules()]
    wanted = [(p, p.requires_grad) for module in known for p in module.parameters()]
    for module in known:
        module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for parameter, required in wanted:
            parameter.requires_grad_(required)


def load_object(name: str, what: str = "network") -> Any:
    """What a name stands for: an ONNX file, a folder of a transformers classifier, or what Python code holds.

    "module:function" may be the network itself, a module's class, or a function without arguments that makes it.
    """
    refuse_address(name, what)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".onnx":
        return from_onnx(path)
    if path.is_dir():
        return from_folder(path)
    if ":" not in name:
        raise InvalidInput(
            f"{what} {name!r}: expected 'module:function', 'file.py:function', a file.onnx, or a folder of a "
            "transformers image classifier"
        )
    found = load_function(name)
    if not isinstance(found, nn.Module) and (inspect.isclass(found) or _takes_nothing(found)):
        with blamed(f"making the {what} {name!r}"):
            found = found()
    return found.eval().requires_grad_(False) if isinstance(found, nn.Module) else found


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not inspect.Parameter.empty or p.kind in kinds for p in parameters) and not any(
        p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters
    )


class ClassifierUnderAudit:
    """Images (B, 3, H, W) in [0, 1] -> logits (B, K).

    Args:
        network: a torch module, a function, or a model of Foolbox or ART.
        name: what messages and reports call it.
        kind: what it returns.
        steps: preprocessing before it, each with a name.

    Attributes:
        module: the torch module with its weights, or None.
        classes: K, known after `try_out` or `probe`.
    """

    def __init__(
        self,
        network: Any,
        name: str,
        kind: OutputKind = "auto",
        steps: Sequence[tuple[str, Callable[[Tensor], Tensor]]] = (),
    ) -> None:
        self.name, self.kind, self.steps = name, kind, list(steps)
        self.module = module_in(network)
        self._call = adapted(network, name)
        self.classes = 0

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU for a plain function."""
        return device_of(self.module)

    def raw(self, images: Tensor) -> Tensor:
        """What the network returns, as a tensor."""
        with local_only(self.name), blamed(f"{self.name} with images of shape {tuple(images.shape)}"):
            x = images
            for name, step in self.steps:
                with blamed(f"the preprocessing step {name!r}"):
                    x = step(x)
            found = self._call(x)
        return tensor_of(found, self.name, len(images))

    def logits(self, images: Tensor) -> Tensor:
        """(B, K), with a graph to the images where they have one."""
        return as_logits(self.raw(images), self.kind, self.name)

    def verdict(self, images: Tensor) -> Tensor:
        """(B,) the class of each image, without a graph."""
        with torch.no_grad():
            return self.logits(images).argmax(dim=1)

    @trial()
    def probe(self, images: Tensor, names: Sequence[str] = ()) -> None:
        """Try the network on a few clean images before any work; sets `kind` and `classes`.

        Raises:
            InvalidInput: the wrong number of outputs, NaN, or an error of the network's own.
            NotDifferentiable: no gradient reaches the images; names the step.
        """
        x = self._probe_steps(images)
        with local_only(self.name):
            check_gradient(self._call, lambda found: tensor_of(found, self.name, len(x)), x, self.name)
        self.try_out(images)
        if names and len(names) != self.classes:
            raise InvalidInput(f"{self.name} has {self.classes} outputs, but classes names {len(names)}")

    @trial()
    def try_out(self, images: Tensor) -> None:
        """`probe` without gradients: sets `kind` and `classes`."""
        with torch.no_grad():
            found = self.raw(images)
        if self.kind == "auto":
            self.kind = recognise(found, self.name)
        self.classes = as_logits(found, self.kind, self.name).shape[1]

    def _probe_steps(self, images: Tensor) -> Tensor:
        """The images after the preprocessing steps, each of which is tried."""
        x = images
        for name, step in self.steps:
            before = x
            with local_only(name):
                check_gradient(step, partial(_image, name=name), before, f"the preprocessing step {name!r}")
                with torch.no_grad():
                    x = _image(step(before), name)
        return x


def _image(found: Any, name: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise InvalidInput(f"the preprocessing step {name!r} returned {type(found).__name__}; expected a tensor")
    return found
