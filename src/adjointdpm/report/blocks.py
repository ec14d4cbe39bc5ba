"""What a report is made of: sections of blocks, plain values that know nothing of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adjointdpm.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Block", "Chart", "Code", "Facts", "Pictures", "Section", "Table", "Text"]


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    text: str
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and its value."""

    rows: Sequence[tuple[str, str]]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Table:
    """`rows` under `header`; columns after the first `text_columns` are numbers, set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: int = 1
    kind: str = field(default="table", init=False)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise InvalidInput(f"a table row has {len(row)} cells, its header {len(self.header)}: {list(row)}")


@dataclass(frozen=True)
class Pictures:
    """A grid: `rows` of pictures under `columns`, each row with a name in `names` (or none).

    Pictures below 256 pixels are enlarged without smoothing, so that every pixel shows.  `size` is the width in CSS
    pixels that each takes on a wide screen.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Image]]
    names: Sequence[str] = ()
    caption: str = ""
    size: int = 128
    kind: str = field(default="pictures", init=False)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InvalidInput(f"a row has {len(row)} pictures under {len(self.columns)} columns")
        if self.names and len(self.names) != len(self.rows):
            raise InvalidInput(f"{len(self.names)} names for {len(self.rows)} rows of pictures")


@dataclass(frozen=True)
class Chart:
    """A drawn figure as PNG bytes; `alt` says in words what it shows."""

    png: bytes
    alt: str
    caption: str = ""
    width: int = 640
    kind: str = field(default="chart", init=False)


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    code: str
    caption: str = ""
    kind: str = field(default="code", init=False)


Block = Text | Facts | Table | Pictures | Chart | Code


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]
