"""What a noise schedule is: the marginals x_t = alpha(t) x_0 + sigma(t) eps, and nothing else.

Every sampler quantity follows from alpha and sigma: lambda = log(alpha / sigma) (the log-SNR, half of the log of the
signal-to-noise power ratio), rho = sigma / alpha (the clock of the paper's exponentially integrated ODE, eq. 11 and
appendix A.4), and the drift f = alpha'/alpha and diffusion g^2 = 2 sigma sigma' - 2 (alpha'/alpha) sigma^2 of the SDE
(eq. 2).  Times, alphas and sigmas are float64 tensors, computed by torch operations, so a time may carry a gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from adjointdpm.schedules.remember import remembered

__all__ = ["Schedule", "as_time"]


def as_time(t: Tensor | float) -> Tensor:
    """`t` as a float64 tensor; a graph, if it has one, is kept."""
    return torch.as_tensor(t, dtype=torch.float64, device="cpu")


class Schedule(ABC):
    """A noise schedule on the clock t: more noise at larger t.

    Attributes:
        t_zero: the time at which sigma = 0 (never given to a network).
        t_end: the smallest time at which a network is asked by default.
        t_start: the largest time, where sampling starts by default.  alpha may be 0 there.
    """

    t_zero: float = 0.0
    t_end: float
    t_start: float

    @abstractmethod
    def alpha(self, t: Tensor | float) -> Tensor:
        """Signal coefficient alpha(t), float64, of the shape of `t`."""

    @abstractmethod
    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise coefficient sigma(t), float64, of the shape of `t`."""

    @abstractmethod
    def t_of_log_snr(self, lam: Tensor | float) -> Tensor:
        """The time at which log(alpha/sigma) = `lam`: the inverse of `log_snr`, in closed form."""

    @abstractmethod
    def d_alpha(self, t: Tensor | float, towards: Tensor | float) -> Tensor:
        """alpha'(t), taken from the side of `t` on which `towards` lies (a discrete schedule has kinks)."""

    @abstractmethod
    def d_sigma(self, t: Tensor | float, towards: Tensor | float) -> Tensor:
        """sigma'(t), one-sided like `d_alpha`.  Infinite at sigma = 0 for variance-preserving schedules."""

    @remembered
    def log_snr(self, t: Tensor | float) -> Tensor:
        """lambda(t) = log(alpha/sigma): +inf at sigma = 0, -inf at alpha = 0."""
        return self.alpha(t).log() - self.sigma(t).log()

    @remembered
    def rho(self, t: Tensor | float) -> Tensor:
        """rho(t) = sigma/alpha, the clock of the exponential form: 0 at sigma = 0, inf at alpha = 0."""
        return self.sigma(t) / self.alpha(t)

    def net_time(self, t: Tensor) -> Tensor:
        """What a network of this family takes as its time; `t` itself unless a schedule says otherwise."""
        return t

    def flow_rates(self, t: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha', sigma') of the clock in which a flow network's velocity u = alpha' x_0 + sigma' eps is meant."""
        return self.d_alpha(t, towards), self.d_sigma(t, towards)
