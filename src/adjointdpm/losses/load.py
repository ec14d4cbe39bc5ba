"""A loss by name, or one of the user's own as "module:function" or "file.py:function"."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.losses.external import efficientnet_features, lpips_loss
from adjointdpm.losses.perceptual import FeatureExtractor, Perceptual
from adjointdpm.losses.pixel import mse
from adjointdpm.losses.users import blamed, handed, place_of

__all__ = ["NAMES", "Loss", "load_function", "load_loss"]

Loss = Callable[[Tensor, Tensor], Tensor]
NAMES = ("mse", "perceptual", "efficientnet", "lpips")


def load_loss(name: str | Callable[..., Tensor], features: Callable[[], FeatureExtractor] | None = None) -> Loss:
    """The loss that `name` means, as `loss(image, target) -> scalar`.

    `name`: one of `NAMES`, "module:function", "file.py:function", or a callable.  A function gets the image alone, or
    the target as well if it needs two arguments, or the second is called `target` or has the default None.
    `features` makes the network for "perceptual" when it is asked for.  "perceptual" and "efficientnet" add the mean
    squared error, since features of a classifier see little of colour.
    Raises `InvalidInput` naming what is missing or cannot be imported.
    """
    if callable(name):
        return _two_arguments(name, getattr(name, "__name__", type(name).__name__))
    if name == "mse":
        return mse
    if name == "perceptual":
        if features is None:
            raise InvalidInput("the loss 'perceptual' needs a network with features; none was given")
        return Perceptual(features(), pixels=1.0)
    if name == "efficientnet":
        return Perceptual(efficientnet_features(), pixels=1.0)
    if name == "lpips":
        return lpips_loss()
    if ":" in name:
        return _two_arguments(load_function(name), name)
    raise InvalidInput(f"no loss {name!r}; expected {', '.join(NAMES)}, 'module:function' or 'file.py:function'")


def load_function(name: str) -> Callable[..., Any]:
    """The function that "module:function" or "file.py:function" names; modules are also sought in the current folder.

    Raises `InvalidInput` naming the part that fails.
    """
    where, _, attribute = name.rpartition(":")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _from_name(where)
    except (Exception, SystemExit) as error:  # the user's module runs its own code, which may fail in any way
        place = place_of(error)
        raise InvalidInput(f"cannot import {where!r} of {name!r}{place}: {type(error).__name__}: {error}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = sorted(k for k, v in vars(module).items() if inspect.isfunction(v) and not k.startswith("_"))
        raise InvalidInput(f"{where!r} has no function {attribute!r}; it has {', '.join(functions) or 'none'}")
    return function  # type: ignore[no-any-return]


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    # a name of its own: a file called as a library would stand in for it
    spec = importlib.util.spec_from_file_location(f"_adjointdpm_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _from_name(name: str) -> Any:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _two_arguments(function: Callable[..., Tensor], name: str) -> Loss:
    who = f"the loss {name!r}"
    count = handed(function, ("image", "target"), who, unknown=2)

    def loss(image: Tensor, target: Tensor) -> Tensor:
        with blamed(who):
            return function(*(image, target)[:count])

    return loss
