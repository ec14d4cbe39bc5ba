"""Painters of an audit: of prompts, or of classes (DiT, `guided.GuidedPipeline`); discreet in filter mode."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.audit.responsible import wordless
from adjointdpm.tasks.painter import Painter

__all__ = ["AuditPainter", "ClassPainter"]


class AuditPainter(Painter):
    """Draws images of prompts; in filter mode no warning and no error repeats their words."""

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As `Painter.encode`."""
        discreet = getattr(self.config, "mode", None) == "filter"
        with wordless([*prompts, self.config.negative_prompt]) if discreet else nullcontext():
            return self._encoded(prompts)

    def _encoded(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return super().encode(prompts)


class ClassPainter(AuditPainter):
    """Draws images of `class_labels`; a prompt is a class number, such as "879"."""

    def _encoded(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The classes (B,), twice: there is no negative prompt."""
        wrong = [prompt for prompt in prompts if not prompt.strip().isdecimal()]
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
