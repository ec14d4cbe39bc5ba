"""Continuous variance-preserving schedules, alpha^2 + sigma^2 = 1: linear beta(t) (VP-SDE) and cosine.

Both have closed forms both ways.  sigma is computed from log alpha by `expm1`, because 1 - alpha^2 loses half of its
digits near the data end.  There sigma' grows like t^(-1/2), which is why the raw form of the ODE needs an end time > 0.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from adjointdpm.errors import InvalidInput
from adjointdpm.schedules.base import Schedule, as_time
from adjointdpm.schedules.remember import remembered

__all__ = ["VPCosine", "VPLinear", "VariancePreserving"]


class VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1: a schedule is given by log alpha(t) and its inverse."""

    @abstractmethod
    def log_alpha(self, t: Tensor | float) -> Tensor:
        """log alpha(t), float64; 0 at the data end, -inf at alpha = 0."""

    @abstractmethod
    def t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """The inverse of `log_alpha`."""

    @remembered
    def alpha(self, t: Tensor | float) -> Tensor:
        return self.log_alpha(t).exp()

    @remembered
    def sigma(self, t: Tensor | float) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def t_of_log_snr(self, lam: Tensor | float) -> Tensor:
        return self.t_of_log_alpha(0.5 * logsigmoid(2 * as_time(lam)))  # alpha^2 = sigmoid(2 lambda)

    def d_sigma(self, t: Tensor | float, towards: Tensor | float) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t, towards) / self.sigma(t)  # from alpha^2 + sigma^2 = 1


@dataclass(frozen=True)
class VPLinear(VariancePreserving):
    """beta(t) = beta_0 + t (beta_1 - beta_0) on t in [0, 1]: log alpha = -(beta_1 - beta_0) t^2/4 - beta_0 t/2.

    Song et al., "Score-Based Generative Modeling through SDEs" (2021), appendix C.
    """

    beta_0: float = 0.1
    beta_1: float = 20.0
    t_end: float = 1e-3
    t_start: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_0 < self.beta_1:
            raise InvalidInput(f"VPLinear needs 0 < beta_0 < beta_1, got {self.beta_0} and {self.beta_1}")

    def log_alpha(self, t: Tensor | float) -> Tensor:
        t = as_time(t)
        return -0.25 * (self.beta_1 - self.beta_0) * t**2 - 0.5 * self.beta_0 * t

    def t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        slope = self.beta_1 - self.beta_0
        root = torch.sqrt(self.beta_0**2 - 4 * slope * log_alpha)
        return -4 * log_alpha / (root + self.beta_0)  # the stable root of the quadratic

    def d_alpha(self, t: Tensor | float, towards: Tensor | float) -> Tensor:
        beta = self.beta_0 + as_time(t) * (self.beta_1 - self.beta_0)
        return -0.5 * beta * self.alpha(t)


@dataclass(frozen=True)
class VPCosine(VariancePreserving):
    """alpha(t) = cos(a(t)) / cos(a(0)) with a(t) = (t + s)/(1 + s) pi/2 on t in [0, 1]; alpha(1) = 0 exactly.

    Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (2021).  At the default start the
    exponential form is not defined (alpha = 0): use `form="angle"`, or start at t_start < 1.
    """

    s: float = 0.008
    t_end: float = 1e-3
    t_start: float = 1.0
    _half_pi: ClassVar[float] = math.pi / 2

    def __post_init__(self) -> None:
        if not self.s > 0:
            raise InvalidInput(f"VPCosine needs s > 0, got {self.s}")

    @property
    def _rate(self) -> float:
        return self._half_pi / (1 + self.s)

    def alpha(self, t: Tensor | float) -> Tensor:
        return torch.sin((1 - as_time(t)) * self._rate) / math.cos(self.s * self._rate)  # sin: exactly 0 at t = 1

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return self.alpha(t).log()

    def sigma(self, t: Tensor | float) -> Tensor:
        # cos^2 a_0 - cos^2 a = sin(a - a_0) sin(a + a_0): no cancellation near t = 0
        t = as_time(t)
        return torch.sqrt(torch.sin(t * self._rate) * torch.sin((t + 2 * self.s) * self._rate)) / math.cos(
            self.s * self._rate
        )

    def t_of_log_snr(self, lam: Tensor | float) -> Tensor:
        lam, a0 = as_time(lam), self.s * self._rate
        sigma2, alpha2 = torch.sigmoid(-2 * lam), torch.sigmoid(2 * lam)
        sin2 = math.sin(a0) ** 2 + sigma2 * math.cos(a0) ** 2
        a = torch.atan2(sin2.sqrt(), alpha2.sqrt() * math.cos(a0))
        return a / self._rate - self.s

    def t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        cos_a = log_alpha.exp() * math.cos(self.s * self._rate)
        return torch.acos(cos_a) / self._rate - self.s

    def d_alpha(self, t: Tensor | float, towards: Tensor | float) -> Tensor:
        return -self._rate * torch.cos((1 - as_time(t)) * self._rate) / math.cos(self.s * self._rate)
