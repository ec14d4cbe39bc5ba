"""The painter of an inversion: its images carry a gradient to the embedding, and to nothing else."""

from __future__ import annotations

from typing import Any

from adjointdpm.tasks import painter
from adjointdpm.tasks.inversion.config import InvertConfig
from adjointdpm.tasks.painter import Painted

__all__ = ["Painted", "Painter"]


class Painter(painter.Painter):
    """Draws images of embeddings (B, L, D) with the settings of an inversion."""

    config: InvertConfig

    def __init__(self, generator: Any, config: InvertConfig) -> None:
        super().__init__(generator, config, wrt=("cond",))
