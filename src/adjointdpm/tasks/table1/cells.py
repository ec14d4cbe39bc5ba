"""The cells of the table: form x spacing x solver x NFE, and how many steps each solver gets for its NFE.

NFE counts calls of the network, so both solvers of a column cost the same and the one with a dearer start takes fewer
steps:

- `ab4`, ours: weights for the uneven grid that it is on.  Its start ramps the order up (Euler, AB2, AB3) with one
  evaluation a step, so it takes NFE steps.  The start by Runge-Kutta steps takes 9 evaluations more, which leaves one
  step at NFE 10, or two, that is 4 or 8 evaluations, so no column could be met.
- `explicit_adams` with `max_order` 5, torchdiffeq's: two Runge-Kutta steps of four evaluations (the 3/8 rule), one step
  of AB3, then AB4.  It takes NFE - 6 steps.  Its coefficients are those of equal steps, whatever the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adjointdpm.schedules import Grid, Schedule, make_grid

__all__ = ["EXTRA", "FORMS", "LEAST_NFE", "SOLVERS", "SPACINGS", "Cell", "FormName", "SolverName", "SpacingName"]

FormName = Literal["raw", "exponential"]
SpacingName = Literal["uniform", "logsnr", "quadratic"]
SolverName = Literal["explicit_adams", "ab4"]
FORMS: tuple[FormName, ...] = ("raw", "exponential")
SPACINGS: tuple[SpacingName, ...] = ("uniform", "logsnr", "quadratic")
SOLVERS: tuple[SolverName, ...] = ("explicit_adams", "ab4")
EXTRA = {"explicit_adams": 6, "ab4": 0}  # evaluations beyond one a step
LEAST_NFE = 10  # both solvers reach their fourth order


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        form: "raw" (eq. 6, dx/dt) or "exponential" (eq. 11, dy/drho).
        spacing, solver: see `schedules.make_grid` and above.
        nfe: evaluations of the network for one sample.
    """

    form: FormName
    spacing: SpacingName
    solver: SolverName
    nfe: int

    @property
    def key(self) -> str:
        """The name of the cell's files."""
        return f"{self.form}-{self.spacing}-{self.solver}-{self.nfe}"

    @property
    def steps(self) -> int:
        return self.nfe - EXTRA[self.solver]

    def grid(self, schedule: Schedule) -> Grid:
        """From the schedule's first time to its last above sigma = 0, the same two for every cell.

        There is no step to sigma = 0: the raw form is singular there on variance-preserving schedules, and a last step
        of first order would be the same for all cells and hide what they differ in.
        """
        return make_grid(schedule, self.steps, self.spacing, to_zero=False)
