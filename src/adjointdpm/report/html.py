"""Blocks -> one HTML file that needs nothing else: styles, pictures and charts are inside it.

Every text goes through jinja2's autoescape, so that a prompt with markup in it shows as what was typed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, Any

from adjointdpm.report.blocks import Section

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["render_report"]

ENLARGED_BELOW = 256  # pixels


def png_uri(picture: Image | bytes) -> str:
    """A picture, or PNG bytes, as a data: address."""
    if not isinstance(picture, bytes):
        buffer = BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        picture = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(picture).decode()


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["png"] = png_uri
    source = files("adjointdpm.report").joinpath("template.html").read_text(encoding="utf-8")
    return environment.from_string(source)


def render_report(title: str, lead: str, sections: Sequence[Section], footer: str = "") -> str:
    """The report as HTML text: `lead` is the sentence under the title, `footer` the small print."""
    html: str = _template().render(
        title=title, lead=lead, sections=sections, footer=footer, enlarged_below=ENLARGED_BELOW
    )
    return html
