"""The samples of an audit: a prompt, a noise by its seed, and the class that the image should show.

Left to their defaults, prompts are plain objects of the embedded model, and for its filter plain food.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.zoo.lexicon import objects_in, spoken

__all__ = ["CONTROL_PROMPTS", "PROMPTS", "Sample", "class_number", "make_samples", "object_number", "prompts_of"]

PROMPTS = {
    "classifier": tuple(
        f"{word} on white background" for word in ("fox", "penguin", "rose", "pineapple", "car", "guitar")
    ),
    "filter": tuple(
        f"{word} on white background" for word in ("apple", "carrot", "pizza", "cake", "strawberry", "hamburger")
    ),
}
CONTROL_PROMPTS = {
    "classifier": tuple(
        f"{word} on white background"
        for word in (
            *("cat", "owl", "shark", "cactus", "apple", "pizza", "bus", "rocket"),
            *("trophy", "drum", "crown", "key", "book", "ghost", "tree", "umbrella"),
        )
    ),
    "filter": tuple(
        f"{word} on white background"
        for word in (
            *("fox", "owl", "shark", "cactus", "rose", "tree", "bus", "rocket"),
            *("guitar", "drum", "crown", "key", "book", "ghost", "camera", "umbrella"),
        )
    ),
}
Label = int | None


@dataclass(frozen=True)
class Sample:
    """`label` is the class in the network's outputs (None in filter mode), `target` that of a targeted search."""

    index: int
    prompt: str
    seed: int
    label: Label = None
    target: Label = None


def object_number(prompt: str) -> int | None:
    """The class of the embedded model's classifier that the prompt names, or None."""
    return next(iter(objects_in(prompt)), None)


def prompts_of(config: AuditConfig, embedded: bool) -> tuple[str, ...]:
    """The prompts given, or those of the embedded model; raises `InvalidInput` where there are none."""
    prompts = config.prompts or (PROMPTS[config.mode] if embedded else ())
    if not prompts:
        raise InvalidInput("no prompts are given; only the embedded model has prompts of its own")
    return prompts


def make_samples(
    config: AuditConfig,
    prompts: Sequence[str],
    classes: int,
    names: Sequence[str],
    objects: bool,
    seed: int | None = None,
    noises: int | None = None,
) -> list[Sample]:
    """Every prompt with each of its noises, in a fixed order.

    Args:
        config: the settings.
        prompts: see `prompts_of`.
        classes: outputs of the classifier; 0 in filter mode.
        names: of the classes, or empty.
        objects: whether the classes are the embedded model's objects, which the prompts name.
        seed, noises: in place of the configuration's, for held-out samples.

    Raises:
        InvalidInput: a label that is out of range, unknown, missing, or equal to the target.
    """
    labels: list[Label] = [None] * len(prompts)
    target: Label = None
    if config.mode == "classifier":
        labels = _labels(config, prompts, classes, names, objects)
        if config.target_class is not None:
            target = class_number(config.target_class, classes, names)
            same = [prompt for prompt, label in zip(prompts, labels, strict=True) if label == target]
            if same:
                raise InvalidInput(
                    f"target_class {config.target_class!r} is the class of {same[0]!r} itself; choose another target"
                )
    first, count = config.seed if seed is None else seed, config.noises if noises is None else noises
    pairs = [(prompt, label) for prompt, label in zip(prompts, labels, strict=True) for _ in range(count)]
    return [Sample(i, prompt, first + i, label, target) for i, (prompt, label) in enumerate(pairs)]


def _labels(
    config: AuditConfig, prompts: Sequence[str], classes: int, names: Sequence[str], objects: bool
) -> list[Label]:
    given: Sequence[int | str] = config.labels
    if len(given) == 1:
        given = list(given) * len(prompts)
    if given:
        return [class_number(label, classes, names, "label") for label in given]
    if objects:
        found = [object_number(prompt) for prompt in prompts]
        nameless = [prompt for prompt, label in zip(prompts, found, strict=True) if label is None]
        if nameless:
            raise InvalidInput(
                f"the prompt {nameless[0]!r} names no object of the embedded model; give labels, one for each prompt"
            )
        return list(found)
    by_name = [_named(prompt, names) for prompt in prompts]
    if names and all(label is not None for label in by_name):
        return by_name
    raise InvalidInput("labels are missing: give the class of each prompt, as its number or its name in classes")


def _named(prompt: str, names: Sequence[str]) -> int | None:
    """The class whose name is in the prompt, the longest if several are."""
    said = f" {_plain(prompt)} "
    found = [name for name in names if f" {_plain(name)} " in said]
    return list(names).index(max(found, key=len)) if found else None


def _plain(text: str) -> str:
    """In small letters, without punctuation."""
    return " ".join(spoken(text))


def class_number(label: int | str, classes: int, names: Sequence[str], what: str = "target_class") -> int:
    """A class by number or name, whatever its case and punctuation; raises `InvalidInput` saying what there is."""
    numbers = f"a number from 0 to {classes - 1}"
    try:
        number = int(label)
    except ValueError:
        alike = [name for name in names if name == label] or [n for n in names if _plain(n) == _plain(str(label))]
        if len(alike) == 1:
            return list(names).index(alike[0])
        first = ", ".join(list(names)[:12]) + (", …" if len(names) > 12 else "")
        expected = f"the name of a class ({first}) or {numbers}" if names else f"{numbers}; no names are known here"
        raise InvalidInput(f"{what} {label!r} is no class: expected {expected}") from None
    if not 0 <= number < classes:
        raise InvalidInput(f"{what} {number} is out of range: expected {numbers}")
    return number
