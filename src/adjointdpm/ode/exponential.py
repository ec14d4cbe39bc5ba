"""The exponentially integrated form, paper eq. 11 and A.4: dy/drho = eps-hat(alpha y, t(rho)).

State y = x/alpha, clock rho = sigma/alpha.  The paper's y = (alpha_0/alpha_t) x and rho =
alpha_0 sigma_t/alpha_t - sigma_0 are the same up to constants, which no solver here sees.
The linear part is solved exactly, and Euler is DDIM.
Not defined at alpha = 0 (zero terminal SNR, cosine and flow at their start): the angle form is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.ode.base import ODE
from adjointdpm.schedules import Grid

__all__ = ["ExponentialODE"]


@dataclass(frozen=True, eq=False)
class ExponentialODE(ODE):
    """dy/drho = eps-hat, y = x/alpha, rho = sigma/alpha."""

    name: ClassVar[str] = "exponential"

    def clock(self, t: Tensor) -> Tensor:
        return self.schedule.rho(t)

    def time(self, u: Tensor) -> Tensor:
        return self.schedule.t_of_log_snr(-u.log())

    def scale(self, t: Tensor) -> Tensor:
        return self.schedule.alpha(t)

    def mixture(self, t: Tensor, towards: Tensor) -> tuple[float, float]:
        return 0.0, 1.0

    def check(self, grid: Grid) -> None:
        if bool(grid.alpha.min() == 0):
            t = grid.t[grid.alpha.argmin()].item()
            raise InvalidInput(
                f'form="exponential" divides by alpha, which is 0 at t={t:g}: use form="angle" with spacing="uniform" '
                "(a v, x0 or flow network), or start at a smaller t_start"
            )
