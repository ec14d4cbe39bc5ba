"""A diffusion model with a closed-form denoiser: data from a conditional Gaussian mixture, in float64.

With x_0 ~ sum_k w_k N(m_k, s_k^2) and x_t = alpha x_0 + sigma eps, each mode of the marginal at t is
N(alpha m_k, alpha^2 s_k^2 + sigma^2), so the best predictions of x_0 and eps are responsibility-weighted sums, and v
and the flow velocity follow.  The mixture's parameters play the part of network weights, and a conditioning vector
moves its modes, so gradients to the noise, the conditioning, the guidance and the weights all exist.  With one mode
the probability-flow ODE itself has a closed solution (`SingleGaussian.solution`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

CHANNELS = 3  # of the conditioning vector


class GaussianMixture(nn.Module):
    """`net(x, t, cond)` -> eps, v, x0 or flow prediction of a mixture of `modes` Gaussians in `dim` dimensions.

    `schedule` has alpha(t) and sigma(t).  x (B, dim); t scalar or (B,); cond None, (B, 3), or a mapping with "text"
    (B, 3) and "pooled" (B, 3), of which the first moves the modes and the second changes their widths.
    """

    def __init__(
        self, schedule: Any, prediction: str = "eps", *, dim: int = 2, modes: int = 3, seed: int = 0, width: float = 0.6
    ) -> None:
        super().__init__()
        self.schedule, self.prediction = schedule, prediction
        g = torch.Generator().manual_seed(seed)

        def draw(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(*shape, generator=g, dtype=torch.float64))

        self.means = draw(modes, dim, scale=1.0)
        self.log_widths = nn.Parameter(torch.full((modes,), width, dtype=torch.float64).log())
        self.logits = draw(modes, scale=0.3)
        self.lift = draw(CHANNELS, dim, scale=0.4)
        self.sway = draw(CHANNELS, modes, scale=0.4)
        self.stretch = draw(CHANNELS, modes, scale=0.2)

    def modes_given(self, cond: Tensor | Mapping[str, Tensor] | None, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means (B, K, D), variances (B, K) and log weights (B, K)."""
        if cond is None:
            text = pooled = like.new_zeros(like.shape[0], CHANNELS)
        elif isinstance(cond, Tensor):
            text, pooled = cond, torch.zeros_like(cond)
        else:
            text, pooled = cond["text"], cond["pooled"]
        means = self.means + (text @ self.lift)[:, None, :]
        variance = (2 * (self.log_widths + pooled @ self.stretch)).exp()
        return means, variance, torch.log_softmax(self.logits + text @ self.sway, dim=-1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | Mapping[str, Tensor] | None = None) -> Tensor:
        t64 = torch.as_tensor(t, dtype=torch.float64)
        alpha = torch.as_tensor(self.schedule.alpha(t64), dtype=torch.float64).reshape(-1, 1).to(x.dtype)
        sigma = torch.as_tensor(self.schedule.sigma(t64), dtype=torch.float64).reshape(-1, 1).to(x.dtype)
        means, variance, log_w = self.modes_given(cond, x)
        spread = alpha**2 * variance + sigma**2  # (B, K)
        offset = x[:, None, :] - alpha[..., None] * means  # (B, K, D)
        score = -0.5 * (offset.square().sum(-1) / spread + x.shape[-1] * spread.log())
        share = torch.softmax(log_w + score, dim=-1)[..., None]
        eps = (share * sigma[..., None] * offset / spread[..., None]).sum(1)
        x0 = (share * (means + (alpha * variance / spread)[..., None] * offset)).sum(1)
        return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": eps - x0}[self.prediction]


class SingleGaussian(GaussianMixture):
    """One mode: the ODE is linear and x(t) - alpha m scales like the marginal's standard deviation."""

    def __init__(self, schedule: Any, prediction: str = "eps", **options: Any) -> None:
        super().__init__(schedule, prediction, modes=1, **options)

    def solution(self, x_T: Tensor, t_start: float, t_end: float, cond: Tensor | None = None) -> Tensor:
        """x(t_end) of the exact ODE from x(t_start) = x_T, without guidance."""
        means, variance, _ = self.modes_given(cond, x_T)

        def moments(t: float) -> tuple[Tensor, Tensor]:
            t64 = torch.tensor(t, dtype=torch.float64)
            alpha, sigma = self.schedule.alpha(t64), self.schedule.sigma(t64)
            return alpha * means[:, 0], (alpha**2 * variance + sigma**2).sqrt()

        (mean_T, size_T), (mean_0, size_0) = moments(t_start), moments(t_end)
        return mean_0 + size_0 / size_T * (x_T - mean_T)


def noise(batch: int = 2, dim: int = 2, seed: int = 1) -> Tensor:
    """Standard normal starting noise, (batch, dim) float64."""
    return torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conditioning(batch: int = 2, seed: int = 2) -> Tensor:
    """A conditioning vector, (batch, 3) float64."""
    return torch.randn(batch, CHANNELS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metric(x_0: Tensor) -> Tensor:
    """A smooth, curved scalar of a sample, in which every component counts differently."""
    weight = torch.linspace(0.5, 1.5, x_0.numel(), dtype=x_0.dtype).reshape(x_0.shape)
    return (weight * x_0).sin().sum() + 0.1 * (weight * x_0.square()).sum()
