"""A Gaussian mixture whose noise prediction is known in closed form, so every gradient can be computed to convergence.

x_0 ~ 1/6 Σ N(m_k, 0.3²) in 16 dimensions gives x_t ~ 1/6 Σ N(α m_k, 0.09 α² + σ²), and ε̂ = −σ ∇ log p.  Narrow modes
far apart are what makes the flow hard: trajectories part ways at a few noise levels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adjointdpm.schedules import Schedule

__all__ = ["EVALUATIONS", "Mixture", "metric"]

EVALUATIONS = [0]  # of the mixture, replays included

DIMENSIONS, MODES, WIDTH = 16, 6, 0.3


class Mixture(nn.Module):
    """ε̂ (B, 16) of x (B, 16) at times t (B,), float64.  Its means are its weights."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        draw = torch.randn(MODES, DIMENSIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.means = nn.Parameter(draw, requires_grad=False)

    def forward(self, x: Tensor, t: Tensor, cond: None = None) -> Tensor:
        EVALUATIONS[0] += 1
        alpha, sigma = self.schedule.alpha(t[:1]), self.schedule.sigma(t[:1])
        spread = (alpha * WIDTH) ** 2 + sigma**2
        offset = x[:, None] - alpha * self.means  # (B, K, D)
        share = torch.softmax(-0.5 * offset.square().sum(-1) / spread, -1)
        return sigma / spread * (share[..., None] * offset).sum(1)


def metric(x: Tensor) -> Tensor:
    """A curved scalar, summed over samples, so that each sample's gradient is its own."""
    weight = torch.linspace(0.5, 1.5, DIMENSIONS, dtype=x.dtype)
    return (weight * x).sin().sum() + 0.1 * (weight * x.square()).sum()
