"""The template of a study's page: `page.md.jinja` beside its code; a name that it does not know is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["page_template"]


def page_template(folder: Path, **filters: Callable[..., Any]) -> Template:
    """The page of the study in `folder`, whose text may use `filters`."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= filters
    return environment.from_string((folder / "page.md.jinja").read_text(encoding="utf-8"))
