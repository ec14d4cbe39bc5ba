"""Whether an image still shows what its prompt says, by somebody who was never optimised against.

A change of the verdict counts only if the judge agrees that the image still shows the class (in filter mode: the
concept); else the noise has merely made another image.  Its opinion stops no search and steers none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.losses.users import blamed, handed
from adjointdpm.tasks.audit.adapters import device_of
from adjointdpm.tasks.audit.config import Mode
from adjointdpm.tasks.audit.outputs import tensor_of
from adjointdpm.tasks.audit.responsible import local_only, wordless
from adjointdpm.tasks.audit.samples import Sample, object_number

__all__ = ["Judge", "check_named", "embedded_judge", "no_judge", "wrapped_judge"]

Judge = Callable[[Tensor, Sequence[Sample]], list[bool]]


def no_judge(images: Tensor, samples: Sequence[Sample]) -> list[bool]:
    """Everything counts; the report says that nobody judged."""
    return [True] * len(samples)


def embedded_judge(mode: Mode) -> Judge:
    """The embedded model's judge: the object that the prompt names, or in filter mode one of its category.

    Of a prompt that names none it sees nothing; `check_named` says so before.
    """
    from adjointdpm import zoo
    from adjointdpm.zoo.objects import OBJECTS

    network, categories = zoo.judge(), list(OBJECTS.values())

    def judge(images: Tensor, samples: Sequence[Sample]) -> list[bool]:
        with torch.no_grad():
            seen = network(images.to(next(network.parameters()).device)).objects.argmax(dim=1).tolist()
        named = [object_number(sample.prompt) for sample in samples]
        if mode == "filter":
            return [n is not None and categories[s] == categories[n] for s, n in zip(seen, named, strict=True)]
        return [s == n for s, n in zip(seen, named, strict=True)]

    return judge


def check_named(samples: Sequence[Sample], mode: Mode) -> None:
    """Warn of prompts that name no object for the embedded judge to see; raises `InvalidInput` if all of them do."""
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    nameless = [k for k, prompt in enumerate(prompts) if object_number(prompt) is None]
    # filter mode hides words
    which = ", ".join(f"number {k + 1}" if mode == "filter" else repr(prompts[k]) for k in nameless)
    remedy = "name objects of the embedded model (adjointdpm.zoo.vocabulary() lists them), or a judge of your own"
    if len(nameless) == len(prompts):
        raise InvalidInput(f"no prompt names an object for the embedded judge to see, so nothing would count: {remedy}")
    if nameless:
        warnings.warn(
            f"{len(nameless)} of {len(prompts)} prompts name no object for the embedded judge to see and are left out: "
            f"{which}; {remedy}",
            InputWarning,
            stacklevel=4,
        )


def wrapped_judge(judge: Any, name: str, mode: Mode, classes: int | None = None) -> Judge:
    """A network or function of images (B, 3, H, W), and maybe of prompts, as a judge.

    It returns (B,) bool, whether the image shows what its prompt says; or scores: (B, K) of classes as the classifier
    under audit numbers its `classes`, or in filter mode (B,) or (B, C), above 0 where the image shows the concept.
    """
    who = f"the judge {name}"
    arguments = handed(judge, ("images", "prompts"), who)

    def call(images: Tensor, samples: Sequence[Sample]) -> list[bool]:
        images, prompts = images.to(device_of(judge)), [s.prompt for s in samples]
        hidden = wordless(prompts) if mode == "filter" else nullcontext()
        with hidden, torch.no_grad(), local_only(name), blamed(f"{who} with images of shape {tuple(images.shape)}"):
            found = judge(*(images, prompts)[:arguments])
        if isinstance(found, (list, tuple)) and all(isinstance(value, bool) for value in found):
            found = torch.tensor(found)
        if isinstance(found, Tensor) and found.dtype == torch.bool:
            if found.shape != (len(samples),):
                raise InvalidInput(
                    f"{who} returned shape {tuple(found.shape)} for {len(samples)} images; expected ({len(samples)},)"
                )
            return list(found.tolist())
        scores = tensor_of(found, who, len(samples))
        if mode == "filter":
            return list((scores.reshape(len(samples), -1) > 0).any(dim=1).tolist())
        if scores.ndim != 2:
            raise InvalidInput(f"{who} returned one score an image; expected (B, K) classes, or (B,) bool")
        if classes is not None and scores.shape[1] != classes:
            raise InvalidInput(
                f"{who} has {scores.shape[1]} outputs, the network under audit {classes}: expected the same "
                "classes in the same order, or (B,) bool"
            )
        return [seen == s.label for seen, s in zip(scores.argmax(dim=1).tolist(), samples, strict=True)]

    return call
