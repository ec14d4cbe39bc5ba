"""`python -m adjointdpm.cli.settings_page` writes `docs/settings.md`: what `--config` takes, and the option of each.

A test fails when the page is out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from adjointdpm.cli.settings import flag

__all__ = ["FILE", "page"]

FILE = Path(__file__).parents[3] / "docs" / "settings.md"
HEAD = """# Settings files
What `--config FILE` takes, YAML or JSON, for each task: the fields of its configuration in `adjointdpm.tasks`, so a
file, the command line and Python say the same. Options go before the file, the file before the preset and the defaults.
Lists may be written as one value if they hold one; what the table calls None is `null`, or the key left out.
`config` in the `run.json` of a run has its settings in this form.
"""


def page() -> str:
    """The page as Markdown."""
    from adjointdpm.cli import audit, guide, invert, reward, stylize
    from adjointdpm.tasks import AuditConfig, InvertConfig, RewardConfig
    from adjointdpm.tasks.guide.config import GuideConfig
    from adjointdpm.tasks.settings import TaskConfig
    from adjointdpm.tasks.stylize import StylizeConfig

    parts = [HEAD, "## All tasks", *_table(dict(TaskConfig.model_fields), {})]
    tasks: list[tuple[str, type[TaskConfig], Any]] = [
        ("invert", InvertConfig, invert),
        ("stylize", StylizeConfig, stylize),
        ("audit", AuditConfig, audit),
        ("guide", GuideConfig, guide),
        ("reward", RewardConfig, reward),
    ]
    for name, cls, command in tasks:
        own = {key: info for key, info in cls.model_fields.items() if key in vars(cls)["__annotations__"]}
        parts += [f"\n## {name}", f"`{cls.__name__}`\n", *_table(own, command.FLAGS)]
    return "\n".join(parts) + "\n"


def _table(fields: dict[str, FieldInfo], flags: dict[str, str]) -> list[str]:
    rows = ["| key | option | default | what it is |", "|---|---|---|---|"]
    for name, info in fields.items():
        what = (info.description or "").replace("|", "\\|")
        words = _words(info.annotation)
        what += f" One of {', '.join(words)}." if words else ""
        rows.append(f"| `{name}` | `{flag(name, flags)}` | {_default(info)} | {what} |")
    return rows


def _default(info: FieldInfo) -> str:
    """As YAML writes it; nothing where there is none, or null."""
    value = None if info.is_required() else info.get_default(call_default_factory=True)
    return "" if value is None else f"`{json.dumps(value, default=str, ensure_ascii=False)}`"


def _words(annotation: Any) -> list[str]:
    """The words that a field takes, if it is one of a few."""
    return [
        word
        for kind in (annotation, *get_args(annotation))
        if get_origin(kind) is Literal
        for word in map(str, get_args(kind))
    ]


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{FILE}\n")
