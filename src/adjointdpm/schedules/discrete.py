"""The schedule of a network trained on discrete steps, made continuous: any `alphas_cumprod` of a DDPM.

t counts training steps (it is what the network takes) and may be fractional: log alpha is interpolated piecewise
linearly between the steps.  Times are never rounded: snapping a Runge-Kutta stage or a solver node to the nearest
training step turns every method into a first-order one.  Two ends need a rule:

- Below step 0 log alpha goes on linearly to 0 at t = -1, so sigma(-1) = 0: the "previous" step of step 0 is the data,
  which is what DDIM's `set_alpha_to_one` says.  The default end time is step 0, the last that a network has seen.
- Where the last alpha is 0 (zero terminal SNR) log alpha has no slope in the last interval: there the angle
  atan2(sigma, alpha) is linear instead.

The kink of log alpha at each step caps the order of high-order solvers: their order shows on continuous schedules only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from adjointdpm.errors import InvalidInput
from adjointdpm.schedules.base import as_time
from adjointdpm.schedules.vp import VariancePreserving

__all__ = ["VPDiscrete"]


@dataclass(frozen=True, eq=False)
class VPDiscrete(VariancePreserving):
    """alpha(t) = sqrt(alphas_cumprod[t]) at the training steps t = 0 ... T-1; t runs from -1 (sigma = 0) to T-1.

    Args:
        alphas_cumprod: (T,) the cumulative products of 1 - beta, strictly decreasing in (0, 1); the last may be 0.

    Raises:
        InvalidInput: the values are not such a sequence.
    """

    alphas_cumprod: Tensor | Sequence[float]
    t_zero: float = field(default=-1.0, init=False)
    t_end: float = field(default=0.0, init=False)
    t_start: float = field(default=math.nan, init=False)
    _log_alpha: Tensor = field(init=False, repr=False)  # (T+1,) at t = -1 ... T-1
    _zero_terminal: bool = field(init=False, repr=False)  # alpha = 0 at T-1
    _last_angle: float = field(init=False, repr=False)  # atan2(sigma, alpha) at T-2

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.alphas_cumprod, dtype=torch.float64, device="cpu").detach().cpu()
        if values.ndim != 1 or len(values) < 2:
            raise InvalidInput(f"alphas_cumprod must be one row of at least 2 values, got shape {tuple(values.shape)}")
        extended = torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), values])
        if not bool((extended.diff() < 0).all()) or not float(values[-1]) >= 0:
            raise InvalidInput("alphas_cumprod must decrease strictly from below 1 to 0 or above")
        object.__setattr__(self, "alphas_cumprod", values)
        object.__setattr__(self, "t_start", float(len(values) - 1))
        object.__setattr__(self, "_log_alpha", 0.5 * extended.log())
        object.__setattr__(self, "_zero_terminal", float(values[-1]) == 0)
        object.__setattr__(self, "_last_angle", math.acos(math.sqrt(float(values[-2]))))

    @property
    def train_steps(self) -> int:
        """T, the number of training steps."""
        return len(self._log_alpha) - 1

    def log_alpha(self, t: Tensor | float) -> Tensor:
        t = as_time(t)
        left = self._interval(t.detach().floor())
        low, high = self._log_alpha[left], self._log_alpha[left + 1]
        weight = t + 1 - left
        if not self._zero_terminal:
            return low + weight * (high - low)
        last = left == self.train_steps - 1
        slope = torch.where(last, torch.zeros_like(high), high - low)
        phi = self._last_angle + weight * (math.pi / 2 - self._last_angle)
        return torch.where(last, _log_cos(phi), low + weight * slope)

    def t_of_log_snr(self, lam: Tensor | float) -> Tensor:
        lam = as_time(lam)
        t = self.t_of_log_alpha(0.5 * logsigmoid(2 * lam))
        if not self._zero_terminal:
            return t
        phi = torch.atan(torch.exp(-lam))
        weight = (phi - self._last_angle) / (math.pi / 2 - self._last_angle)
        return torch.where(phi > self._last_angle, self.train_steps - 2 + weight, t)

    def t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        found = torch.searchsorted(-self._log_alpha, -log_alpha.detach(), right=True) - 1
        left = found.clamp(0, self.train_steps - (2 if self._zero_terminal else 1))
        low, high = self._log_alpha[left], self._log_alpha[left + 1]
        return left - 1 + (log_alpha - low) / (high - low)

    def d_alpha(self, t: Tensor | float, towards: Tensor | float) -> Tensor:
        t, towards = as_time(t), as_time(towards)
        left = self._interval(torch.where(towards < t, t.ceil() - 1, t.floor()).detach())
        slope = self._log_alpha[left + 1] - self._log_alpha[left]
        if not self._zero_terminal:
            return self.alpha(t) * slope
        rate = math.pi / 2 - self._last_angle
        return torch.where(left == self.train_steps - 1, -rate * self.sigma(t), self.alpha(t) * slope)

    def _interval(self, left_time: Tensor) -> Tensor:
        """Index of the interval [left_time, left_time + 1] in the table that starts at t = -1."""
        return (left_time + 1).long().clamp(0, self.train_steps - 1)


def _log_cos(phi: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 - phi).log()  # exactly -inf at pi/2
