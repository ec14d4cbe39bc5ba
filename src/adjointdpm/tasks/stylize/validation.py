"""Images drawn while it runs, always of the same prompts and noises, so that progress can be seen and not only read.

They are drawn before a step, of the weights that the last checkpoint may hold: a run that was killed and resumed draws
them again and ends with the same files as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from adjointdpm.losses.style import StyleTarget
from adjointdpm.runs import load_tensors, save_tensors
from adjointdpm.tasks.painter import Painter
from adjointdpm.tasks.stylize.compare import distances, paint_pairs
from adjointdpm.tasks.stylize.config import StylizeConfig
from adjointdpm.tasks.team import Team

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Glimpse", "Validation"]


@dataclass(frozen=True)
class Glimpse:
    """The images after `step` steps (B, 3, H, W) and their mean Gram distance by network."""

    step: int
    images: Tensor
    gram: Mapping[str, float]


class Validation:
    """Draws the images of `config.validation` every `validate_every` steps into `folder`."""

    def __init__(
        self, folder: Path, config: StylizeConfig, painter: Painter, meters: Mapping[str, StyleTarget], team: Team
    ) -> None:
        self.folder, self.config, self.painter = folder, config, painter
        self.meters, self.team = meters, team
        self._drawn: set[int] = set()  # a step that is made again under another loss scale is not drawn again

    def before_step(self, step: int) -> None:
        """Draw if it is time: `step - 1` steps are done."""
        every = self.config.validate_every
        if every and (step - 1) % every == 0 and step - 1 not in self._drawn:
            self.draw(step - 1)

    def draw(self, step: int) -> None:
        """Draw and save the images of the present weights."""
        self._drawn.add(step)
        painted = paint_pairs(self.painter, self.team, self.config.validation)
        if not self.team.main:
            return
        gram = {name: distances(target, painted.image) for name, target in self.meters.items()}
        figures = {name: repr(sum(values) / len(values)) for name, values in gram.items()}
        save_tensors(
            self.folder / f"step-{step:06d}.safetensors", {"images": (255 * painted.shown).round().byte()}, figures
        )
        self._sheet(painted.shown, step)

    def _sheet(self, images: Tensor, step: int) -> None:
        from adjointdpm.formats import save_png
        from adjointdpm.report import picture_sheet, to_pil

        heads = [f"{prompt}, {seed}" for prompt, seed in self.config.validation]
        save_png(picture_sheet([to_pil(images)], heads, [f"step {step}"]), self.folder / f"step-{step:06d}.png")

    def glimpses(self) -> list[Glimpse]:
        """All that were drawn, in order."""
        found = []
        for file in sorted(self.folder.glob("step-*.safetensors")):
            tensors, figures = load_tensors(file)
            step = int(file.stem.removeprefix("step-"))
            gram = {name: float(value) for name, value in figures.items()}
            found.append(Glimpse(step, tensors["images"].float() / 255, gram))
        return found

    def strip(self, most: int = 7) -> tuple[list[str], list[list[Image]], list[str]]:
        """Column heads, rows of pictures and row names: a row for each of at most `most` moments."""
        from adjointdpm.report import to_pil

        seen = self.glimpses()
        few = min(most, len(seen))
        chosen = [seen[round(k * (len(seen) - 1) / max(1, few - 1))] for k in range(few)]
        heads = [f"{prompt}, {seed}" for prompt, seed in self.config.validation]
        return heads, [to_pil(g.images) for g in chosen], [f"step {g.step}" for g in chosen]
