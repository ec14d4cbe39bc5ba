"""Schedules whose clock is the noise level itself: EDM (variance-exploding) and rectified flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.schedules.base import Schedule, as_time

__all__ = ["EDM", "RectifiedFlow"]


@dataclass(frozen=True)
class EDM(Schedule):
    """alpha = 1, sigma = t (variance exploding).  Karras et al., "Elucidating the Design Space" (2022).

    x_T is drawn with standard deviation t_start, not 1.
    """

    t_end: float = 0.002
    t_start: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.t_end < self.t_start:
            raise InvalidInput(f"EDM needs 0 < t_end < t_start, got {self.t_end} and {self.t_start}")

    def alpha(self, t: Tensor | float) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Tensor | float) -> Tensor:
        return as_time(t)

    def log_snr(self, t: Tensor | float) -> Tensor:
        return -as_time(t).log()

    def t_of_log_snr(self, lam: Tensor | float) -> Tensor:
        return torch.exp(-as_time(lam))

    def d_alpha(self, t: Tensor | float, towards: Tensor | float) -> Tensor:
        return torch.zeros_like(as_time(t))

    def d_sigma(self, t: Tensor | float, towards: Tensor | float) -> Tensor:
        return torch.ones_like(as_time(t))


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """alpha = 1 - sigma, sigma = shift t / (1 + (shift - 1) t), t in [0, 1]: sigma = t for shift 1.

    Liu et al., "Flow Straight and Fast" (2022); the shift is that of Esser et al. (Stable Diffusion 3, 2024).
    Whatever the shift, the network's time is `time_scale` * sigma and its velocity is u = eps - x_0.
    alpha is 0 at the default start t = 1: use `form="angle"` with `spacing="uniform"`, or t_start < 1.
    """

    shift: float = 1.0
    time_scale: float = 1.0
    t_end: float = 1e-3
    t_start: float = 1.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise InvalidInput(f"RectifiedFlow needs shift > 0, got {self.shift}")

    def alpha(self, t: Tensor | float) -> Tensor:
        t = as_time(t)
        return (1 - t) / (1 + (self.shift - 1) * t)

    def sigma(self, t: Tensor | float) -> Tensor:
        t = as_time(t)
        return self.shift * t / (1 + (self.shift - 1) * t)

    def t_of_log_snr(self, lam: Tensor | float) -> Tensor:
        lam = as_time(lam)
        sigma, alpha = torch.sigmoid(-lam), torch.sigmoid(lam)
        return sigma / (sigma + self.shift * alpha)

    def d_alpha(self, t: Tensor | float, towards: Tensor | float) -> Tensor:
        return -self.d_sigma(t, towards)

    def d_sigma(self, t: Tensor | float, towards: Tensor | float) -> Tensor:
        return self.shift / (1 + (self.shift - 1) * as_time(t)) ** 2

    def net_time(self, t: Tensor) -> Tensor:
        return self.time_scale * self.sigma(t)

    def flow_rates(self, t: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return -one, one
