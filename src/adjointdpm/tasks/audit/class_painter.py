"""A painter for pipelines that are conditioned on classes, such as DiT or `guided.GuidedPipeline`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.painter import Painter

__all__ = ["ClassPainter"]


class ClassPainter(Painter):
    """Draws images of `class_labels`; a prompt is a class number, such as "879"."""

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The classes (B,), twice: there is no negative prompt."""
        wrong = [prompt for prompt in prompts if not prompt.strip().isdigit()]
        if wrong:
            raise InvalidInput(
                f"prompt {wrong[0]!r}: {type(self.generator.pipe).__name__} is conditioned on classes; expected the "
                "number of a class"
            )
        labels = torch.tensor([int(prompt) for prompt in prompts], dtype=torch.long, device=self.generator.pipe.device)
        return labels, labels

    def conditioning(self, embeds: Tensor, negative: Tensor) -> dict[str, Tensor]:
        """As `Painter.conditioning`."""
        return {"class_labels": embeds}
