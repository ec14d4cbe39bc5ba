"""Where the steps of a sampler lie: a grid of times from noise to data.

Times are float64 and never rounded, except by the three spacings that reproduce diffusers' (`leading`, `trailing`,
`linspace`), whose times are training steps by definition.  A grid of `steps` steps has steps + 1 nodes.  With
`to_zero` the last node is sigma = 0 and the `steps` nodes before it run from t_start to t_end; without it all
steps + 1 nodes do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.schedules.base import Schedule, as_time
from adjointdpm.schedules.discrete import VPDiscrete

__all__ = ["Grid", "Spacing", "check_steps", "make_grid"]

Spacing = Literal["uniform", "logsnr", "quadratic", "karras", "leading", "trailing", "linspace"]
Convention = Literal["ddim", "dpm", "euler"]
SNAPPED = ("leading", "trailing", "linspace")
KARRAS_EXPONENT = 7.0


@dataclass(frozen=True, eq=False)
class Grid:
    """Nodes of a solve, in the order in which they are visited; all float64 of shape (steps + 1,).

    Attributes:
        t, alpha, sigma: time and marginal coefficients at each node.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @property
    def steps(self) -> int:
        return len(self.t) - 1

    @property
    def to_zero(self) -> bool:
        """Whether the last node is sigma = 0: no network is evaluated there, the last step lands on x_0-hat."""
        return bool(self.sigma[-1] == 0)

    @property
    def ode_steps(self) -> int:
        """How many of the steps solve the ODE: all, or all but the one to sigma = 0."""
        return self.steps - self.to_zero

    @staticmethod
    def of(schedule: Schedule, t: Tensor, like: Grid) -> Grid:
        """The nodes t (n,) above sigma = 0, and the node at sigma = 0 of `like` if that has one."""
        last = slice(like.ode_steps + 1, None)
        return Grid(
            torch.cat([t, like.t[last]]),
            torch.cat([schedule.alpha(t), like.alpha[last]]),
            torch.cat([schedule.sigma(t), like.sigma[last]]),
        )

    def reversed(self) -> Grid:
        """The same nodes from data to noise; only for a grid that stops above sigma = 0."""
        if self.to_zero:
            raise InvalidInput("a grid that reaches sigma = 0 cannot be walked from data to noise; use to_zero=False")
        return replace(self, t=self.t.flip(0), alpha=self.alpha.flip(0), sigma=self.sigma.flip(0))


def make_grid(
    schedule: Schedule,
    steps: int,
    spacing: Spacing = "logsnr",
    t_start: Tensor | float | None = None,
    t_end: Tensor | float | None = None,
    to_zero: bool = True,
    *,
    steps_offset: int = 0,
    convention: Convention = "ddim",
) -> Grid:
    """The grid of a sampler with `steps` steps.

    Args:
        schedule: the noise schedule.
        steps: number of steps, at least 1.
        spacing: what the nodes are even in: `uniform` t, `logsnr` lambda, `quadratic` the square root of t,
            `karras` rho^(1/7); or diffusers' `leading`, `trailing`, `linspace` (for a `VPDiscrete`).
        t_start, t_end: first and last time at which the network is asked; the schedule's by default.
        to_zero: whether a last step goes to sigma = 0.
        steps_offset: added to the times of `leading`, as in a diffusers config.
        convention: which diffusers family `leading` and `linspace` follow: `ddim` (DDIM, DDPM, PNDM), `dpm`
            (DPM-Solver, UniPC, DEIS: one more node, the smallest dropped), `euler` (Euler, Heun, LMS: `linspace` not
            rounded).

    Raises:
        InvalidInput: steps is not a whole number >= 1 or more than a snapped spacing has; the times are outside the
            schedule or not decreasing; the spacing needs alpha > 0 at the start.
    """
    steps = check_steps(steps)
    if spacing not in get_args(Spacing):
        raise InvalidInput(f"spacing={spacing!r} is unknown; choose one of {', '.join(get_args(Spacing))}")
    if spacing in SNAPPED:
        if t_start is not None or t_end is not None:
            raise InvalidInput(f"spacing={spacing!r} fixes its own times; t_start and t_end need another spacing")
        t = _snapped(schedule, steps, spacing, steps_offset, convention)
        last = schedule.t_zero if to_zero else schedule.t_end
        nodes = torch.cat([t, as_time(last).reshape(1)])
    else:
        first, last_t = _check_times(schedule, t_start, t_end)
        t = _spaced(schedule, steps if to_zero else steps + 1, spacing, first, last_t)
        nodes = torch.cat([t, as_time(schedule.t_zero).reshape(1)]) if to_zero else t
    sigma = schedule.sigma(nodes)
    if to_zero:
        sigma = torch.cat([sigma[:-1], torch.zeros(1, dtype=torch.float64, device="cpu")])
    return Grid(nodes, schedule.alpha(nodes), sigma)


def check_steps(steps: int) -> int:
    """`steps` if it is a whole number of at least 1, else InvalidInput."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise InvalidInput(f"steps must be a whole number of at least 1, got {steps!r}")
    return int(steps)


def _check_times(
    schedule: Schedule, t_start: Tensor | float | None, t_end: Tensor | float | None
) -> tuple[Tensor, Tensor]:
    first = as_time(schedule.t_start if t_start is None else t_start)
    last = as_time(schedule.t_end if t_end is None else t_end)
    if first.ndim or last.ndim:
        raise InvalidInput("t_start and t_end are single times, not tensors with a shape")
    if not schedule.t_zero < last.item() < first.item() <= schedule.t_start:
        raise InvalidInput(
            f"times must satisfy {schedule.t_zero} < t_end < t_start <= {schedule.t_start} for "
            f"{type(schedule).__name__}, got t_start={first.item()}, t_end={last.item()}"
        )
    return first, last


def _spaced(schedule: Schedule, count: int, spacing: str, first: Tensor, last: Tensor) -> Tensor:
    """`count` times from `first` down to `last`, both exactly; only `first` if count is 1."""
    u = torch.arange(count, dtype=torch.float64, device="cpu") / max(count - 1, 1)
    if spacing == "uniform":
        t = first + u * (last - first)
    elif spacing == "quadratic":
        high, low = (first - schedule.t_zero).sqrt(), (last - schedule.t_zero).sqrt()
        t = schedule.t_zero + (high + u * (low - high)) ** 2
    else:
        high, low = schedule.log_snr(first), schedule.log_snr(last)
        if bool(torch.isinf(high)):
            raise InvalidInput(
                f"spacing={spacing!r} needs alpha > 0 at the start, but {type(schedule).__name__} has alpha = 0 at "
                f't={first.item()}: use spacing="uniform" with form="angle", or a smaller t_start'
            )
        if spacing == "logsnr":
            lam = high + u * (low - high)
        else:
            lam = -KARRAS_EXPONENT * torch.log((1 - u) * torch.exp(-high / 7) + u * torch.exp(-low / 7))
        t = schedule.t_of_log_snr(lam)
    if count == 1:
        return first.reshape(1)
    return torch.cat([first.reshape(1), t[1:-1], last.reshape(1)])


def _snapped(schedule: Schedule, steps: int, spacing: str, offset: int, convention: str) -> Tensor:
    """diffusers' `timesteps` for this number of steps, as float64."""
    if not isinstance(schedule, VPDiscrete):
        raise InvalidInput(f"spacing={spacing!r} needs a VPDiscrete schedule, got {type(schedule).__name__}")
    total = schedule.train_steps
    extra = 1 if convention == "dpm" else 0
    if steps + extra > total:
        raise InvalidInput(f"steps={steps} is beyond the schedule: spacing={spacing!r} has {total} training steps")
    if spacing == "leading":
        t = (np.arange(0.0, steps + extra) * (total // (steps + extra)))[::-1][:steps] + offset
    elif spacing == "trailing":
        t = np.round(np.arange(total, 0, -total / steps))[:steps] - 1
    else:
        t = np.linspace(0.0, total - 1, steps + extra)[::-1][:steps]
        t = t if convention == "euler" else np.round(t)
    if t[0] > total - 1:
        raise InvalidInput(f"steps={steps} with steps_offset={offset} starts at {t[0]:g}, beyond step {total - 1}")
    return torch.as_tensor(t.copy(), dtype=torch.float64, device="cpu")
