"""`adjointdpm invert`: options and a JSON file -> the task's configuration, the run, and what came out of it.

The options mirror `tasks.InvertConfig`.  A value comes from the command line, else from `--config`, else from the run
being resumed, else from the configuration's own default; the library validates the whole before any work.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.shell import Shell
from adjointdpm.errors import InvalidInput

if TYPE_CHECKING:
    from adjointdpm.tasks import InvertConfig, InvertResult

__all__ = ["FLAGS", "invert", "settings"]

#: Option of each field of the configuration whose name differs from "--field-name".
FLAGS = {
    "prompts": "PROMPT...",
    "seeds": "--seed",
    "negative_prompt": "--negative",
    "effect_options": "--effect-option",
    "target_images": "--target",
    "variant": "--placement",
    "guidance_scale": "--guidance",
    "batch_size": "--batch",
    "unseen_prompts": "--unseen-prompt",
    "unseen_seeds": "--unseen-seed",
}
RECORD = "run.json"


def invert(
    shell: Shell, given: Mapping[str, Any], config_file: Path | None, resume: bool,
    road: Mapping[str, Any], choice: ModelChoice,
) -> int:  # fmt: skip
    """Run the inversion; the JSON document holds the results and the paths of embedding, report and record."""
    config = settings(given, config_file, resume)

    import adjointdpm as ad

    pipe = choice.load()
    generator = ad.differentiable(pipe, **{name: value for name, value in road.items() if value is not None})
    with shell.progress(f"learning {config.target_name}", config.epochs) as update:
        label = f"learning {config.target_name}"
        result = ad.tasks.invert(config, generator, on_step=lambda n, of, loss: update(n, f"{label}, loss {loss:.5f}"))
    shell.emit(
        {
            "command": "invert",
            "model": choice.name,
            "results": result.record["results"],
            "embedding": result.embedding_path,
            "report": result.report_path,
            "record": result.folder / RECORD,
        }
    )
    for line in summary(config, result, choice):
        shell.say(line)
    return 0


def settings(given: Mapping[str, Any], config_file: Path | None, resume: bool) -> InvertConfig:
    """The validated configuration.

    Args:
        given: fields that were given as options; None and empty ones count as not given.
        config_file: JSON object of fields, or None.
        resume: continue the run in `given["out"]`, whose settings are the default; without it a run there is refused.

    Raises:
        InvalidInput: an unreadable file, a folder with (or, to resume, without) a run, a field that is not valid.
    """
    out = Path(given["out"])
    fields: dict[str, Any] = _recorded(out) if resume else {}
    if not resume and (out / RECORD).exists():
        raise InvalidInput(f"--out {out} holds a run already; say --resume to go on with it, or choose another folder.")
    if config_file is not None:
        fields |= _read_object(config_file, "--config")
    fields |= {name: value for name, value in given.items() if value is not None and value != []}
    return _validated(fields)


def _recorded(out: Path) -> dict[str, Any]:
    record = out / RECORD
    if not record.is_file():
        raise InvalidInput(
            f"--resume: there is no run in {out} ({RECORD} is missing); leave --resume out to start one."
        )
    found = _read_object(record, "--resume").get("config")
    if not isinstance(found, dict):
        raise InvalidInput(f"--resume: {record} is not the record of a run; choose a new folder.")
    return found


def _read_object(file: Path, option: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(f"{option} {file} cannot be read as JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"{option} {file} holds a JSON {type(found).__name__}; expected an object of settings.")
    return found


def _validated(fields: dict[str, Any]) -> InvertConfig:
    from pydantic import ValidationError

    from adjointdpm.tasks import InvertConfig

    try:
        return InvertConfig.model_validate(fields)
    except ValidationError as error:
        problems = error.errors()
        unknown = [repr(problem["loc"][0]) for problem in problems if problem["type"] == "extra_forbidden"]
        parts = [_explained(problem) for problem in problems if problem["type"] != "extra_forbidden"]
        if unknown:
            parts.append(f"unknown settings {', '.join(unknown)}; known: {', '.join(InvertConfig.model_fields)}")
        raise InvalidInput("; ".join(parts)) from error


def _explained(problem: Any) -> str:
    """One of pydantic's findings, in terms of the command line."""
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return _with_flags(message)
    field = str(problem["loc"][0])
    if problem["type"] == "missing":
        return f"{FLAGS.get(field, '--' + field.replace('_', '-'))} is missing"
    return f"{FLAGS.get(field, '--' + field.replace('_', '-'))} {problem['input']!r}: {message}"


def _with_flags(message: str) -> str:
    """Field names in a message about several fields, with the options that set them."""
    for field in ("target_images", "target_words", "effect_options"):
        message = message.replace(field, FLAGS.get(field, "--" + field.replace("_", "-")))
    return message.replace("of effect,", "of --effect,")


def summary(config: InvertConfig, result: InvertResult, choice: ModelChoice) -> list[str]:
    """The results for people."""

    def percent(share: float | None) -> str:
        return "not known (there is no true effect to compare with)" if share is None else f"{100 * share:.0f} %"

    words = [
        "rocket " + config.token if config.space == "token" else "rocket",
        "--embedding",
        str(result.embedding_path),
    ]
    words += [] if choice.model is None else ["--model", choice.model]
    words += ["--steps", str(config.steps), "--guidance", f"{config.guidance_scale:g}"]
    return [
        f"effect        {config.target_name}",
        f"loss          {result.losses[0]:.5g} -> {result.record['results']['final_loss']:.5g}",
        f"gap closed    {percent(result.seen_gap_closed)} on the training pairs",
        f"              {percent(result.unseen_gap_closed)} on prompts and noises never optimised on",
        f"embedding     {result.embedding_path}",
        f"use it        {shlex.join(['adjointdpm', 'generate', *words])}",
        f"report        {result.report_path}",
    ]
