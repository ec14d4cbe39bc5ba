"""A reward by name, or one of the user's own as "module:function"; several with weights.

A term reads `[WEIGHT*]NAME[=ARGUMENT]`: "colourfulness", "0.5*classifier=cat", "-1*jpeg=90" (small files),
"2*my_rewards:aesthetic", "clip=FOLDER".
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.losses.load import load_function
from adjointdpm.losses.rewards.clip import load_clip
from adjointdpm.losses.rewards.colour import chroma, colourfulness
from adjointdpm.losses.rewards.jpeg import jpeg_file_size, jpeg_size
from adjointdpm.losses.rewards.sharpness import sharpness
from adjointdpm.losses.users import blamed, handed

__all__ = ["BUILT_IN", "Reward", "Term", "load_reward", "read_term"]

Reward = Callable[[Tensor, Sequence[str]], Tensor]
Maker = Callable[[str | None], Reward]

WEIGHTED = re.compile(r"\s*(?P<weight>[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?)\s*\*\s*(?P<rest>.+)")


@dataclass(frozen=True)
class Term:
    """`weight` times the reward `name`, which may have an argument, as it was written in `text`."""

    text: str
    weight: float
    name: str
    argument: str | None

    @property
    def reward(self) -> str:
        """The reward without its weight."""
        return self.name if self.argument is None else f"{self.name}={self.argument}"


def read_term(text: str) -> Term:
    """Take a term apart; raises `InvalidInput` for an empty one or a weight of zero."""
    match = WEIGHTED.fullmatch(text)
    weight, rest = (float(match["weight"]), match["rest"]) if match else (1.0, text)
    rest = rest.strip()
    if ":" in rest:  # a path may have an equals sign in it
        name, argument = rest, None
    else:
        name, equals, after = rest.partition("=")
        name, argument = name.strip(), after.strip() if equals else None
    if not name or argument == "" or "*" in name.partition(":")[0]:
        raise InvalidInput(f"the reward {text!r} is not [WEIGHT*]NAME[=ARGUMENT], such as 0.5*colourfulness")
    if not math.isfinite(weight) or weight == 0:
        raise InvalidInput(f"the reward {text!r} has the weight {weight:g}; expected a finite number other than 0")
    return Term(text, weight, name, argument)


def load_reward(term: Term, more: Mapping[str, Maker] | None = None) -> Reward:
    """The reward that a term names, as `reward(images, prompts) -> scores (B,)`, its weight left out.

    `more` adds makers to `BUILT_IN`.  A function of the user's may take (images), (images, prompts) or, as TRL's reward
    functions did, (images, prompts, metadata); a default other than None is left as it is unless the argument has one
    of these names.  It may return (scores, anything).
    Raises `InvalidInput` naming what is missing, unknown or cannot be imported.
    """
    makers = {**BUILT_IN, **(more or {})}
    if ":" in term.name:
        return _adapted(load_function(term.name), term.name)
    if term.name not in makers:
        near = difflib.get_close_matches(term.name, makers, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise InvalidInput(f"no reward {term.name!r}{hint} Built in: {', '.join(makers)}; or give 'module:function'")
    return makers[term.name](term.argument)


def _adapted(function: Callable[..., Any], name: str) -> Reward:
    who = f"the reward {name!r}"
    count = handed(function, ("images", "prompts", "metadata"), who, unknown=2)

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        arguments: list[Any] = [images, list(prompts), [{} for _ in prompts]]
        with blamed(who):
            found: Any = function(*arguments[:count])
        scores: Tensor = found[0] if isinstance(found, tuple) and found else found
        return scores

    return reward


def _plain(function: Callable[[Tensor], Tensor], name: str) -> Maker:
    """A maker for a function of images that takes no argument."""

    def make(argument: str | None) -> Reward:
        if argument is not None:
            raise InvalidInput(f"the reward {name!r} takes no argument; got {argument!r}")
        return lambda images, prompts: function(images)

    return make


def _jpeg(function: Callable[[Tensor, int], Tensor], name: str) -> Maker:
    def make(argument: str | None) -> Reward:
        if argument is not None and not argument.isdecimal():
            raise InvalidInput(f"the argument of {name!r} is a JPEG quality from 1 to 100, got {argument!r}")
        quality = 75 if argument is None else int(argument)
        return lambda images, prompts: function(images, quality)

    return make


def _clip(argument: str | None) -> Reward:
    if argument is None:
        raise InvalidInput("the reward 'clip' needs the folder or hub id of a CLIP model: clip=FOLDER")
    return load_clip(argument)


BUILT_IN: dict[str, Maker] = {
    "colourfulness": _plain(colourfulness, "colourfulness"),
    "chroma": _plain(chroma, "chroma"),
    "sharpness": _plain(sharpness, "sharpness"),
    "jpeg": _jpeg(jpeg_size, "jpeg"),
    "jpeg_file": _jpeg(jpeg_file_size, "jpeg_file"),
    "clip": _clip,
}
