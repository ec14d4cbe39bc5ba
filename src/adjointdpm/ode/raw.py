"""The raw form, paper eq. 6: dx/dt = f x + g^2/(2 sigma) eps-hat = alpha' x_0-hat + sigma' eps-hat.

Clock t, state x.  Written on x_0-hat and eps-hat it is one mix of the network's output, and for a flow network on its
own clock it is the output.  Weakness: a solver discretises the linear part too (what eq. 11 removes), and sigma' grows
like t^(-1/2) at the data end of variance-preserving schedules, so the order of a solver shows only for an end time > 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adjointdpm.ode.base import ODE

__all__ = ["RawODE"]


@dataclass(frozen=True, eq=False)
class RawODE(ODE):
    """dx/dt = alpha'(t) x_0-hat + sigma'(t) eps-hat, derivatives one-sided (of the interval being stepped)."""

    name: ClassVar[str] = "raw"

    def clock(self, t: Tensor) -> Tensor:
        return t

    def time(self, u: Tensor) -> Tensor:
        return u

    def scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def mixture(self, t: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.d_alpha(t, towards), self.schedule.d_sigma(t, towards)
