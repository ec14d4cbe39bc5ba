"""What the configurations of all tasks have in common, and the file they can be read from.

A configuration is frozen and validated before any work, so that nothing wrong is found out after an hour.  A value
comes from what is given explicitly, else from the file, else from the preset, else from the class's own default.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adjointdpm.errors import InvalidInput

__all__ = ["Positive", "Seed", "TaskConfig", "explain", "load_config", "quoted", "read_settings"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
MAX_BYTES = 4_000_000  # of a settings file


class TaskConfig(BaseModel):
    """Where a task writes, how it samples, and in what parts and number format it computes.

    A task's own class adds its fields, puts the paper's values into `PAPER`, and names in `FREE` the fields that may
    differ between a run and its resumption because they do not change what is optimised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    PAPER: ClassVar[Mapping[str, Any]] = {}
    FREE: ClassVar[frozenset[str]] = frozenset()

    out: Path = Field(description="Folder of the run; an interrupted run in it is resumed.")
    negative_prompt: str = Field(default="", description="Negative prompt of all images.")
    steps: int = Field(default=10, ge=1, description="Sampling steps.")
    guidance_scale: float = Field(default=3.0, allow_inf_nan=False, description="Scale of classifier-free guidance.")
    batch_size: int | None = Field(default=None, ge=1, description="Images at once (memory); None: all.")
    checkpoint_every: int = Field(default=5, ge=1, description="Steps between checkpoints.")
    mixed_precision: Literal["no", "bf16", "fp16"] = Field(
        default="no", description="Number format of the sampler's products; fp16 comes with a loss scale."
    )
    tracker: Literal["none", "tensorboard", "wandb"] = Field(default="none", description="Curves besides the log.")
    preset: Literal["paper"] | None = Field(
        default=None, description="The paper's settings where nothing else is given (not for guide and reward)."
    )

    @classmethod
    def paper(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The paper's values; a class overrides this where they depend on what else is `given`."""
        return cls.PAPER

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("preset") == "paper":
            values = cls.paper(data)
            if not values:
                raise ValueError("preset: the paper has no settings for this task")
            return {**values, **data}
        return data

    def refuse_idle(self, why: str, *names: str) -> None:
        """Raise `ValueError` for those of the settings that are not at their defaults; `why` they have no effect."""
        fields = type(self).model_fields
        given = [name for name in names if getattr(self, name) != fields[name].get_default(call_default_factory=True)]
        if given:
            raise ValueError(f"{quoted(given)}: without effect {why}")

    def refuse_seen(self, learnt: Collection[tuple[str, int]], unseen: Iterable[tuple[str, int]]) -> None:
        """Raise `ValueError` if a pair of prompt and seed that is to be unseen is learnt on."""
        for prompt, seed in unseen:
            if (prompt, seed) in learnt:
                raise ValueError(
                    f"unseen_prompts, unseen_seeds: the prompt {prompt!r} with the seed {seed} is learnt on"
                )

    def identity(self) -> dict[str, Any]:
        """What must agree on resume: everything but where and how often it is saved, and what `FREE` lists."""
        return self.model_dump(mode="json", exclude={"out", *self._free})

    def free(self) -> dict[str, Any]:
        """What may differ on resume; `run.json` has it beside the identity."""
        return self.model_dump(mode="json", include=set(self._free))

    @property
    def _free(self) -> frozenset[str]:
        return self.FREE | {"batch_size", "checkpoint_every", "tracker"}


Config = TypeVar("Config", bound=BaseModel)


def load_config(
    cls: type[Config],
    file: Path | None,
    given: Mapping[str, Any],
    *,
    named: Callable[[str], str] = str,
) -> Config:
    """The validated configuration: the settings in `file` (YAML or JSON) beneath those that are given explicitly.

    Args:
        cls: the configuration's class.
        file: an object of settings, or None.
        given: fields by name.  One value of a list stands for a list of one.
        named: what messages call a field, such as the option that sets it; within a message the names of fields stand
            in backticks, or have an underscore and no quotes.

    Raises:
        InvalidInput: the file cannot be read, or fields are wrong; names each with its value and what was expected.
    """
    fields = {**({} if file is None else read_settings(file)), **given}
    for name, info in cls.model_fields.items():
        if isinstance(fields.get(name), (str, int, float)) and _is_list(info.annotation):
            fields[name] = [fields[name]]
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        raise InvalidInput(explain(error, cls, named)) from error


def _is_list(annotation: Any) -> bool:
    """Whether a field holds any number of values, so that one alone is meant as a list of one."""
    kinds = (annotation, *get_args(annotation))  # those of an optional field are the arguments of its union
    return any(get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis for kind in kinds)


def explain(error: ValidationError, cls: type[BaseModel], named: Callable[[str], str] = str) -> str:
    """All of pydantic's findings in one sentence: field, value, what is expected."""
    problems = error.errors()
    unknown = [str(problem["loc"][0]) for problem in problems if problem["type"] == "extra_forbidden"]
    dropped = {problem["loc"][0] for problem in problems if len(problem["loc"]) > 1}  # then a list may be too short
    told = [p for p in problems if not (p["type"] == "too_short" and p["loc"][0] in dropped)]
    parts = [_explained(problem, cls, named) for problem in told if problem["type"] != "extra_forbidden"]
    if unknown:
        near = [difflib.get_close_matches(name, cls.model_fields, 1) for name in unknown]
        meant = "".join(f" ({found[0]!r} is meant?)" for found in near if found) if len(unknown) == 1 else ""
        names = ", ".join(map(repr, unknown))
        parts.append(f"unknown settings {names}{meant}; known: {', '.join(cls.model_fields)}")
    return "; ".join(dict.fromkeys(parts))


def _explained(problem: Mapping[str, Any], cls: type[BaseModel], named: Callable[[str], str]) -> str:
    def name(found: re.Match[str]) -> str:
        return named(found[1]) if found[1] in cls.model_fields else found[0]

    message = re.sub(r"`(\w+)`", name, str(problem["msg"]).removeprefix("Value error, "))
    message = re.sub(r"(?<![\w'-])(\w+_\w+)\b", name, message)
    if not problem["loc"]:
        return message
    field = named(str(problem["loc"][0]))
    if problem["type"] == "tuple_type":
        message = "expected a list, such as [1, 2]"
    if problem["type"] == "missing":
        return f"{field} is missing"
    return f"{field} {problem['input']!r}: {message}"


def quoted(names: Iterable[str], joint: str = ", ") -> str:
    """Names of fields in a message, where `load_config` finds them."""
    return joint.join(f"`{name}`" for name in names)


def read_settings(file: Path, option: str = "the settings file") -> dict[str, Any]:
    """The object in a YAML or JSON file (by its suffix; YAML unless it is .json).

    Only plain data is read from YAML: no tags, no anchors (a few lines of them can stand for gigabytes), and of the
    words for booleans only true and false, so that `no` stays a word.  Raises `InvalidInput` naming the file.
    """
    name = "JSON" if file.suffix.lower() == ".json" else "YAML"
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{option} {file} has {file.stat().st_size} bytes; settings are at most {MAX_BYTES}")
        text = file.read_text(encoding="utf-8")
        found = json.loads(text, object_pairs_hook=_once) if name == "JSON" else _plain_yaml(text)
    except InvalidInput:
        raise
    except (OSError, ValueError, RecursionError) as error:  # also UnicodeDecodeError and JSONDecodeError
        raise InvalidInput(f"{option} {file} cannot be read as {name}: {error}.") from error
    found = {} if found is None else found  # an empty file of YAML
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise InvalidInput(f"{option} {file} holds a {name} {kind}; expected an object of settings.")
    return {str(key): value for key, value in found.items()}


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is given twice")
    return found


def _plain_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Plain data only."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ValueError(f"anchors and aliases are not read (line {event.start_mark.line + 1})")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            pairs = [(self.construct_object(k, deep=True), self.construct_object(v, deep=True)) for k, v in node.value]
            return _once(pairs)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:bool"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    booleans = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", booleans, list("tTfF"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
