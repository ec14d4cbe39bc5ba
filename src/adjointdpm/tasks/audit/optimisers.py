"""Three ways to climb within a bound, each a few lines: signs of the gradient, Adam, and APGD's step control.

A climber holds the state of a batch of noises and is asked for the next points; rows are independent of one another,
and `keep` drops those that are done.  The noise stays within the bound by projection after each step.

- sign: x ← Π(x + α τ sign g) (FGSM and PGD; Madry et al. 2018); in the Euclidean norms along g itself.
- adam: Adam's step with learning rate α τ, projected.
- apgd: momentum 0.75; the step begins at 2 τ and is halved, from the best point so far, where too few of the last
  steps have raised the loss (Croce and Hein 2020, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from adjointdpm.tasks.audit.config import OptimiserName
from adjointdpm.tasks.audit.projections import Bound

__all__ = ["Climber", "make_climber"]

MOMENTUM, RISING = 0.75, 0.75  # APGD's
FIRST, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # APGD's checkpoints, as shares of the iterations
BETAS, EPSILON = (0.9, 0.999), 1e-8


class Climber(Protocol):
    """`step(x, gradient, loss)` returns the next points; all of shape (B, …), `loss` (B,)."""

    def step(self, x: Tensor, gradient: Tensor, loss: Tensor) -> Tensor: ...

    def keep(self, rows: Tensor) -> None: ...


class _Sign:
    def __init__(self, bound: Bound, center: Tensor, length: float, iterations: int) -> None:
        self.bound, self.center, self.length = bound, center, length

    def step(self, x: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        return self.bound.project(x + self.bound.step(gradient, self.length), self.center)

    def keep(self, rows: Tensor) -> None:
        self.center = self.center[rows]


class _Adam:
    def __init__(self, bound: Bound, center: Tensor, length: float, iterations: int) -> None:
        self.bound, self.center, self.length = bound, center, length
        self.first, self.second, self.count = torch.zeros_like(center), torch.zeros_like(center), 0

    def step(self, x: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        self.count += 1
        low, high = BETAS
        self.first = low * self.first + (1 - low) * gradient
        self.second = high * self.second + (1 - high) * gradient.square()
        mean, spread = self.first / (1 - low**self.count), self.second / (1 - high**self.count)
        # a gradient's scale must not matter: epsilon is a share of its own size
        size = spread.flatten(1).mean(dim=1).sqrt().reshape(-1, *[1] * (x.ndim - 1))
        direction = mean / (spread.sqrt() + EPSILON * size + torch.finfo(x.dtype).tiny)
        return self.bound.project(x + self.length * self.bound.tau * direction, self.center)

    def keep(self, rows: Tensor) -> None:
        self.center, self.first, self.second = self.center[rows], self.first[rows], self.second[rows]


class _Apgd:
    def __init__(self, bound: Bound, center: Tensor, length: float, iterations: int) -> None:
        self.bound, self.center = bound, center
        rows = len(center)
        self.length = torch.full((rows,), length, dtype=center.dtype, device=center.device)
        self.checkpoints, self.count, self.since = _checkpoints(iterations), 0, 0
        self.before = center.clone()
        self.best, self.best_gradient = center.clone(), torch.zeros_like(center)
        self.best_loss = torch.full_like(self.length, float("-inf"))
        self.last_loss = torch.full_like(self.length, float("-inf"))
        self.rises = torch.zeros_like(self.length)
        self.best_at_check = self.best_loss.clone()
        self.shortened = torch.zeros(rows, dtype=torch.bool, device=center.device)

    def step(self, x: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        loss = loss.to(self.length)
        better = loss > self.best_loss
        self.best = torch.where(_rows(better, x), x, self.best)
        self.best_gradient = torch.where(_rows(better, x), gradient, self.best_gradient)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.rises = self.rises + (loss > self.last_loss) if self.count else self.rises
        self.last_loss = loss
        if self.count == 0:
            self.before, self.best_at_check = x, self.best_loss.clone()
        elif self.count in self.checkpoints:
            x, gradient = self._control(x, gradient)
        pulled = 1.0 if self.count == 0 else MOMENTUM
        lengths = _rows(self.length, x)
        ahead = self.bound.project(x + lengths * self.bound.step(gradient, 1.0), self.center)
        after = self.bound.project(x + pulled * (ahead - x) + (1 - pulled) * (x - self.before), self.center)
        self.before = x
        self.count += 1
        self.since += 1
        return after

    def _control(self, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Halve the step of rows that no longer rise, and go back to their best point."""
        stuck = self.rises < RISING * self.since
        stuck = stuck | (~self.shortened & (self.best_loss <= self.best_at_check))
        self.length = torch.where(stuck, self.length / 2, self.length)
        self.shortened, self.best_at_check = stuck, self.best_loss.clone()
        self.rises, self.since = torch.zeros_like(self.rises), 0
        return torch.where(_rows(stuck, x), self.best, x), torch.where(_rows(stuck, x), self.best_gradient, gradient)

    def keep(self, rows: Tensor) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _checkpoints(iterations: int) -> set[int]:
    """After how many steps APGD looks back."""
    place, width, found = FIRST, FIRST, set()
    while place < 1:
        found.add(max(1, round(place * iterations)))
        width = max(width - SHORTER, SHORTEST)
        place += width
    return found


CLIMBERS: dict[OptimiserName, Callable[..., Climber]] = {"sign": _Sign, "adam": _Adam, "apgd": _Apgd}


def make_climber(name: OptimiserName, bound: Bound, center: Tensor, length: float, iterations: int) -> Climber:
    """The climber of that name for noises around `center` (B, …), with steps of `length` τ."""
    return CLIMBERS[name](bound, center, length, iterations)
