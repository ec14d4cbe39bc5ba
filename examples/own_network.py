"""Gradients through a sampler of one's own network: a small denoiser of 2-D points, trained here in seconds.

The metric asks samples to lie far to the right.  Its gradient with respect to the noise and to the weights, at constant
memory, is compared with plain backprop.  Run: python examples/own_network.py
"""

import math

import torch
from torch import Tensor, nn

import adjointdpm as ad
from adjointdpm.schedules import VPLinear

SCHEDULE = VPLinear()


class PointDenoiser(nn.Module):
    """eps(x, t) of points in the plane: x (B, 2), t (B,) in [0, 1]."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 + 8, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, x: Tensor, t: Tensor, cond: None = None) -> Tensor:
        waves = t[:, None] * math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
        out: Tensor = self.layers(torch.cat([x, waves.sin(), waves.cos()], dim=1))
        return out


def points(count: int) -> Tensor:
    """Data: a ring of radius 2 with a little noise, (count, 2)."""
    angle = 2 * math.pi * torch.rand(count)
    return 2 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(count, 2)


def train(net: nn.Module, steps: int = 600) -> float:
    """Denoising loss at random times; returns the mean of the last 100."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        x_0, eps, t = points(256), torch.randn(256, 2), 1e-3 + (1 - 1e-3) * torch.rand(256)
        alpha, sigma = (v.float()[:, None] for v in (SCHEDULE.alpha(t), SCHEDULE.sigma(t)))
        loss = (net(alpha * x_0 + sigma * eps, t) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-100:]) / 100


def main() -> None:
    torch.manual_seed(0)
    net = PointDenoiser()
    print(f"denoising loss after training: {train(net):.3f}")
    x_T = torch.randn(64, 2, requires_grad=True)
    wrt = [x_T, *net.parameters()]
    grads = {}
    for engine in ("exact", "full"):
        out = ad.sample(ad.Denoiser(net, SCHEDULE), x_T, steps=30, solver="ab2", gradient=engine)
        metric = -out.x0[:, 0].mean()  # far to the right
        grads[engine] = torch.autograd.grad(metric, wrt)
    radius = out.x0.detach().norm(dim=1)
    print(f"samples: radius {radius.mean():.2f} +- {radius.std():.2f} (data: 2.00), metric {metric.item():.3f}")
    for name, index in (("x_T", slice(0, 1)), ("weights", slice(1, None))):
        exact, full = (torch.cat([g.flatten() for g in grads[e][index]]) for e in ("exact", "full"))
        error = float((exact - full).norm() / full.norm())
        print(f"gradient to {name:8s} norm {float(exact.norm()):.4f}, difference from plain backprop {error:.1e}")


if __name__ == "__main__":
    main()
