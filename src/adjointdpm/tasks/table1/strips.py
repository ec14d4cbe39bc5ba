"""Sample strips: the first noises of a run, solved by every cell of a column, under the converged solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL.Image import Image
from torch import Tensor

from adjointdpm.report import picture_sheet, to_pil
from adjointdpm.tasks.table1.cells import Cell

__all__ = ["EQUATION", "SOLVER", "strip"]

EQUATION = {"raw": "eq. 6", "exponential": "eq. 11"}
SOLVER = {"explicit_adams": "torchdiffeq", "ab4": "ours"}


def strip(images: Mapping[str, Tensor], cells: Sequence[Cell]) -> Image:
    """One sheet: the reference in the first row, then a row a cell, a column a noise; nothing is picked."""
    rows = [("converged solution", "reference")]
    rows += [(f"{EQUATION[c.form]}, {c.spacing}, {SOLVER[c.solver]}", c.key) for c in cells]
    return picture_sheet(
        [to_pil(images[key].float() / 255) for _, key in rows], (), [name for name, _ in rows], scale=1
    )
