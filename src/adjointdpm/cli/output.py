"""Checks of where a command will write, before any long work; nothing is created here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from adjointdpm.errors import InvalidInput

__all__ = ["check_folder_for_output", "refuse_overwriting"]


def check_folder_for_output(out: Path) -> None:
    """Raise `InvalidInput` if `out` cannot become a folder that takes files."""
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not place.is_dir():
        raise InvalidInput(f"--out {out}: {place} is a file, not a folder; choose another name.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InvalidInput(f"--out {out}: no permission to write in {place}; choose another folder.")


def refuse_overwriting(files: Sequence[Path], force: bool) -> None:
    """Raise `InvalidInput` naming the first of `files` that is there already, unless `force`."""
    present = [file for file in files if file.exists()]
    if present and not force:
        more = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise InvalidInput(f"{present[0]}{more} would be overwritten; choose another --out or say --force.")
