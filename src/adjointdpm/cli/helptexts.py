"""`python -m adjointdpm.cli.helptexts` writes the help of every command to `docs/cli/*.txt`.

The texts are what a terminal of 100 columns shows, without colour and without the frames, which differ between
versions of rich; a test fails when one of them is out of date.
"""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

__all__ = ["FOLDER", "help_texts", "write"]

FOLDER = Path(__file__).parents[3] / "docs" / "cli"
WIDTH = 100
SIDES, RULES = re.compile(r"^│ ?|│$", re.MULTILINE), re.compile(r"^[╭╰]─+ ?([^─╮╯]*?) ?─*[╮╯]$", re.MULTILINE)


def help_texts() -> dict[str, str]:
    """The help of the program ("adjointdpm") and of each command ("adjointdpm-NAME"), by file stem."""
    from typer.main import get_command

    from adjointdpm.cli.app import app
    from adjointdpm.cli.boundary import PROGRAM

    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    texts = {}
    for name in (None, *names):
        captured = StringIO()
        arguments = [name, "--help"] if name else ["--help"]
        look: dict[str, Any] = {"MAX_WIDTH": WIDTH, "COLOR_SYSTEM": None, "FORCE_TERMINAL": False}
        with patch.multiple("typer.rich_utils", **look), redirect_stdout(captured):
            get_command(app).main(arguments, prog_name=PROGRAM, standalone_mode=False)
        texts[f"{PROGRAM}-{name}" if name else PROGRAM] = plain(captured.getvalue())
    return texts


def plain(text: str) -> str:
    """A help screen without frames and trailing blanks; a frame's title stays as a line of its own."""
    text = SIDES.sub("", RULES.sub(lambda rule: f"\n{rule[1]}:" if rule[1] else "", text))
    lines = [line.rstrip() for line in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def write(folder: Path = FOLDER) -> list[Path]:
    """Write every text to `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for stem, text in help_texts().items():
        files.append(folder / f"{stem}.txt")
        files[-1].write_text(text, encoding="utf-8")
    return files


if __name__ == "__main__":
    for file in write():
        sys.stdout.write(f"{file}\n")
