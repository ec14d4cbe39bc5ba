"""The angle form, defined at both ends of any schedule: dy/dphi = cos(phi) eps-hat - sin(phi) x_0-hat.

State y = x/r with r = sqrt(alpha^2 + sigma^2), clock phi = atan2(sigma, alpha).  On variance-preserving schedules the
field is the v-prediction.  For flow networks the same with straight lines for the circle: y = x/(alpha + sigma), clock
tau = sigma/(alpha + sigma), field eps-hat - x_0-hat, which on rectified flow is the network's output itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adjointdpm.ode.base import ODE

__all__ = ["AngleODE"]


@dataclass(frozen=True, eq=False)
class AngleODE(ODE):
    """dy/dphi = cos(phi) eps-hat - sin(phi) x_0-hat; with `straight`, dy/dtau = eps-hat - x_0-hat.

    Attributes:
        straight: the flow variant.
    """

    straight: bool = False
    name: ClassVar[str] = "angle"

    def clock(self, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return sigma / (alpha + sigma) if self.straight else torch.atan2(sigma, alpha)

    def time(self, u: Tensor) -> Tensor:
        rho = u / (1 - u) if self.straight else torch.tan(u)
        return self.schedule.t_of_log_snr(-rho.log())

    def scale(self, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return alpha + sigma if self.straight else torch.hypot(alpha, sigma)

    def mixture(self, t: Tensor, towards: Tensor) -> tuple[Tensor | float, Tensor | float]:
        if self.straight:
            return -1.0, 1.0
        r = self.scale(t)
        return -self.schedule.sigma(t) / r, self.schedule.alpha(t) / r
