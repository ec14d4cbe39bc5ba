"""The probability-flow ODE (paper eq. 5-6) in some clock u and state y: dy/du = field(y, t).

A form chooses the clock and the state; the solvers know neither alpha nor sigma.  Every form describes the same curve
x(t), so they differ in discretisation error only (eq. 13-14).  Grid times map to clocks by `clock`; the intermediate
clocks of a Runge-Kutta stage map back by `time`, through the schedule's inverse, never through a rounded time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.models import Prediction
from adjointdpm.schedules import Grid, Schedule

__all__ = ["ODE"]


@dataclass(frozen=True, eq=False)
class ODE(ABC):
    """One form of the ODE.

    Attributes:
        model: `(x, t) -> Prediction`, guidance included (a `models.GuidedDenoiser`).
        schedule: alpha(t) and sigma(t).
        name: the form's name in the API.
    """

    model: Callable[[Tensor, Tensor], Prediction]
    schedule: Schedule
    name: ClassVar[str]

    @abstractmethod
    def clock(self, t: Tensor) -> Tensor:
        """u(t), float64, of the shape of t."""

    @abstractmethod
    def time(self, u: Tensor) -> Tensor:
        """t(u), the inverse of `clock`, float64."""

    @abstractmethod
    def scale(self, t: Tensor) -> Tensor:
        """x = scale(t) * y; 0-dim float64."""

    @abstractmethod
    def mixture(self, t: Tensor, towards: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """(p, q) of the field p x_0-hat + q eps-hat at t, on the side of t where `towards` lies."""

    def check(self, grid: Grid) -> None:
        """Raise InvalidInput if the form is not defined at one of the grid's nodes."""
        if not bool(torch.isfinite(self.clock(grid.t)).all()):
            raise InvalidInput(f"form={self.name!r} is not defined at every time of the grid")

    def to_state(self, x: Tensor, t: Tensor) -> Tensor:
        """y of the sample x (B, ...) at time t."""
        return x / self.scale(t)

    def from_state(self, y: Tensor, t: Tensor) -> Tensor:
        """x of the state y (B, ...) at time t."""
        return y * self.scale(t)

    def field(self, y: Tensor, t: Tensor, towards: Tensor) -> Tensor:
        """dy/du at state y (B, ...) and time t: one evaluation of the model.

        `towards` is any other time of the interval being stepped; only the raw form on a schedule with kinks looks.
        """
        return self.model(self.from_state(y, t), t).mix(*self.mixture(t, towards))

    def to_data(self, y: Tensor, t: Tensor) -> Tensor:
        """x_0-hat at state y and time t: the last step, to sigma = 0, of every form and solver.

        It is the exponential form's Euler step over [rho(t), 0], and of first order, as in DPM-Solver++ and DDIM.
        No network is asked at sigma = 0, where x0, v and flow networks would give 0/0.
        """
        return self.model(self.from_state(y, t), t).x0
