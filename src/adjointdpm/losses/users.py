"""Code that users name, such as rewards and networks: how it is called, and its errors as one message with their line.

Such a function is called as it is, within `blamed`: a module stays a module, and what it does is only watched.
"""

from __future__ import annotations

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adjointdpm.errors import AdjointDPMError, InvalidInput, NonFinite, NotDifferentiable

__all__ = ["blamed", "handed", "place_of", "trial"]

OURS = tuple(f"{folder}/" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
NOT_SAID = (*OURS, "<frozen", f"{Path(importlib.__file__).parent}/")  # importing names no line of anybody's
LIBRARIES = tuple(f"{sysconfig.get_path(kind)}/" for kind in ("stdlib", "purelib", "platlib"))


@contextmanager
def blamed(who: str) -> Iterator[None]:
    """Within, an error of the user's own code is `InvalidInput`, naming `who` and the line.

    numpy() on a tensor with a gradient is `NotDifferentiable`.  Errors of this library and a lack of memory pass as
    they are; an attempt to end the program is an error of the code.
    """
    try:
        yield
    except (AdjointDPMError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        where = place_of(error)
        if "numpy() on Tensor" in str(error):
            raise NotDifferentiable(f"{who}: the step{where} leaves torch, so no gradient can be taken") from error
        raise InvalidInput(f"{who} fails{where}: {type(error).__name__}: {error}") from error


def place_of(error: BaseException) -> str:
    """ " at FILE:LINE (CODE)" of the user's own code, or of a library's where none of it was running; "" if neither."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(NOT_SAID)]
    own = [f for f in frames if not f.filename.startswith(LIBRARIES)]
    frame = next(iter(reversed(own or frames)), None)
    return "" if frame is None else f" at {Path(frame.filename).name}:{frame.lineno} ({frame.line})"


@contextmanager
def trial() -> Iterator[None]:
    """Within, before any work, what is not finite is bad input; in the middle of a run it is a failure."""
    try:
        yield
    except NonFinite as error:
        raise InvalidInput(str(error)) from error


def handed(function: Callable[..., Any], offered: Sequence[str], who: str, unknown: int = 1) -> int:
    """With how many of the arguments `offered`, in their order, a function is to be called.

    With those that it needs, and further ones that it has the same names for or whose default is None; with `unknown`
    of them where it takes any number or has no signature.  Raises `InvalidInput` where it takes none, or needs more.
    """
    try:
        called = function.forward if isinstance(function, nn.Module) else function
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):  # some built-in callables have no signature
        return unknown
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in places)
    any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if needed > len(offered) or (not places and not any_number):
        expected = " or ".join(dict.fromkeys(f"({', '.join(offered[:n])})" for n in (1, 2)))
        raise InvalidInput(f"{who} takes {needed or 'no'} arguments; expected {expected}")
    if any_number:
        return max(needed, unknown)
    count = max(needed, 1)
    while count < min(len(places), len(offered)) and (
        places[count].name == offered[count] or places[count].default is None
    ):
        count += 1
    return count
