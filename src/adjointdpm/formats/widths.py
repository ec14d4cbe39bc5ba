"""The width of an embedding against that of a text encoder, with the family that each number belongs to."""

from __future__ import annotations

from adjointdpm.errors import InvalidInput

__all__ = ["check_width"]

FAMILIES = {768: "SD1", 1024: "SD2", 1280: "the second encoder of SDXL", 4096: "a T5 encoder"}


def check_width(got: int, expected: int) -> None:
    """Raise `InvalidInput` naming both widths, and what the embedding looks like, unless they agree."""
    if got == expected:
        return
    hint = f"; looks like {FAMILIES[got]}" if got in FAMILIES else ""
    raise InvalidInput(f"the embedding's width: got {got}, this text encoder has {expected}{hint}")
