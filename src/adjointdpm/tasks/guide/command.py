"""The command line that repeats a run."""

from __future__ import annotations

import shlex

from adjointdpm.tasks.guide.config import GuideConfig

__all__ = ["FLAGS", "again"]

#: Option of each field whose name differs from "--field-name"; the shell uses it too.
FLAGS = {
    "prompts": "PROMPT...",
    "seeds": "--seed",
    "negative_prompt": "--negative",
    "guidance_scale": "--guidance",
    "batch_size": "--batch",
    "low_resolution": "--low-res",
    "weights": "--weight",
    "phrases": "--phrase",
    "shell": "--shell/--no-shell",
    "move_noise": "--move-noise/--no-move-noise",
}


def again(config: GuideConfig) -> str:
    """`adjointdpm guide …` with every setting that is not the default; model and device are the caller's to add."""
    words = ["adjointdpm", "guide", *config.prompts]
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name == "prompts" or value == field.get_default(call_default_factory=True):
            continue
        flag = FLAGS.get(name, "--" + name.replace("_", "-"))
        if isinstance(value, bool):
            words.append(f"--no-{name.replace('_', '-')}")  # both are on by default
        elif name == "seeds":
            words += [part for seed in value for part in (flag, str(seed))]
        elif name == "weights":
            words += [part for term, weight in value.items() for part in (flag, f"{term}={weight:g}")]
        elif name == "blend":
            words += [part for amount in value for part in ("--blend", f"{amount:g}")]
        elif name == "phrases":
            words += [part for phrase in value for part in (flag, phrase)]
        elif isinstance(value, tuple):
            words += [flag, ",".join(f"{edge:g}" for edge in value)]
        else:
            words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)
