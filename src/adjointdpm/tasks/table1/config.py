"""The settings of a Table 1 run, validated before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adjointdpm.tasks.table1.cells import FORMS, LEAST_NFE, SOLVERS, SPACINGS, Cell, FormName, SolverName, SpacingName

__all__ = ["QUICK", "Table1Config"]

#: Minutes instead of hours: every cell, but no distances of distributions.
QUICK: dict[str, Any] = {"noises": 16, "images": 0, "batch": 8}
Nfe = Annotated[int, Field(ge=LEAST_NFE)]


class Table1Config(BaseModel):
    """Which cells, on how many noises, against what.

    The prompts: `scenes` draws them as the embedded model's captions were drawn; `prompts` are a text-conditioned
    model's own, taken in turns; an unconditional model has neither.  The real images of the secondary distances:
    composed from the drawings in `sprites` with `scenes`, else those in the folder `real`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path = Field(description="Folder of the run; an interrupted run in it goes on.")
    noises: int = Field(default=256, ge=2, description="Noises of the endpoint error.")
    images: int = Field(default=2000, ge=0, description="Images a cell of Fréchet distance and KID; 0 leaves them out.")
    forms: tuple[FormName, ...] = Field(default=FORMS, min_length=1)
    spacings: tuple[SpacingName, ...] = Field(default=SPACINGS, min_length=1)
    solvers: tuple[SolverName, ...] = Field(default=SOLVERS, min_length=1)
    nfes: tuple[Nfe, ...] = Field(default=(10, 20, 50), min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**62, description="Image i starts from the noise of seed + i.")
    batch: int = Field(default=32, ge=1, description="Noises at once in each thread.")
    reference_steps: int = Field(default=200, ge=2, description="Runge-Kutta steps of the coarser reference.")
    resamples: int = Field(default=200, ge=20, description="Bootstrap resamples of an interval.")
    scenes: bool = True
    prompts: tuple[str, ...] = ()
    real: Path | None = Field(default=None, description="Folder of real images, for a model of one's own.")
    sprites: Path = Field(default=Path(".cache/zoo/sprites.npz"), description="The drawings of the embedded model.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if 0 < self.images < 2:
            raise ValueError(f"images={self.images}: a distance of distributions needs at least 2; 0 leaves it out")
        if self.scenes and (self.prompts or self.real is not None):
            raise ValueError(
                "prompts and real are for a model of one's own: with the embedded model's scenes leave both"
            )
        if self.images and not self.scenes and self.real is None:
            raise ValueError("images are compared with real ones: give real, a folder of them, or images=0")
        if any(not prompt.strip() for prompt in self.prompts):
            raise ValueError("prompts holds an empty one; without guidance every image needs its prompt")
        return self

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, cheapest column first."""
        return tuple(
            Cell(form, spacing, solver, nfe)
            for nfe in sorted(set(self.nfes))
            for spacing in self.spacings
            for form in self.forms
            for solver in self.solvers
        )

    @property
    def samples(self) -> int:
        """How many noises a cell is solved for: the first `noises` of them have a reference."""
        return max(self.noises, self.images)

    def identity(self) -> dict[str, Any]:
        """What must agree to go on with a run: everything but the paths that only say where things lie."""
        return self.model_dump(mode="json", exclude={"out", "sprites"})
