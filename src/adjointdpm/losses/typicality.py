"""How far noise has been moved away from what a Gaussian gives: penalties on an optimised x_T.

A sampler only knows typical noise; an optimiser that is free to leave it finds images of high reward that look broken.
Both penalties are non-negative, near zero for noise that was drawn, and in units of negative log-probability.

- `norm_penalty`: the norm of x_T under its chi distribution (ReNO; Eyring et al. 2024, arXiv:2406.04312).  Cheap, and
  blind to structure: a picture of the right norm passes.
- `concentration_penalty`: mean and covariance of x_T cut into short vectors, against the tail bounds that hold for
  independent normal numbers, in the order they have and in random orders (DNO; Tang et al. 2024, arXiv:2405.18881).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["concentration_penalty", "norm_penalty"]


def norm_penalty(noise: Tensor) -> Tensor:
    """One number for each noise (B,) of `noise` (B, ...): −log p of its norm, less the least that this can be.

    With d numbers, −log p(r) = r²/2 − (d − 1) log r + const, least at r² = d − 1, and about (r − √(d − 1))² near it.
    """
    flat = _flat(noise)
    d = flat.shape[1]
    squared = flat.square().sum(dim=1).clamp_min(torch.finfo(flat.dtype).tiny)
    least = (d - 1) / 2 * (1 - math.log(d - 1)) if d > 1 else 0.0
    return squared / 2 - (d - 1) / 2 * squared.log() - least


def concentration_penalty(noise: Tensor, k: int = 4, orders: int = 32, seed: int = 0) -> Tensor:
    """One number for each noise (B,) of `noise` (B, ...).

    Its d numbers are cut into m = d // k vectors z of length k.  If all are independent and standard normal, then
        P(‖mean z‖ > M) ≤ 2 exp(−m M² / 2k)  and  P(‖mean z zᵀ − I‖ > M) ≤ 2 exp(−m max(√(1+M) − 1 − √(k/m), 0)² / 2).
    The penalty is −log of both bounds (each at most 1), summed: for the order as it is, plus the mean over `orders`
    random orders, which are the same for every noise and follow from `seed`.
    """
    flat = _flat(noise)
    d = flat.shape[1]
    if d < 2 * k:
        raise InvalidInput(f"noise of {d} numbers is too short for vectors of length {k}")
    m = d // k
    source = torch.Generator().manual_seed(seed)
    places = torch.stack([torch.arange(d), *(torch.randperm(d, generator=source) for _ in range(orders))])
    z = flat[:, places[:, : m * k].to(flat.device)].reshape(len(flat), -1, m, k)  # (B, 1 + orders, m, k)
    mean = z.mean(dim=2).square().sum(dim=-1)  # M² of the mean
    covariance = z.transpose(-1, -2) @ z / m - torch.eye(k, dtype=z.dtype, device=z.device)
    spectral = torch.linalg.eigvalsh(covariance).abs().amax(dim=-1)
    excess = (torch.sqrt(1 + spectral) - 1 - math.sqrt(k / m)).clamp_min(0)
    bounds = _capped(m * mean / (2 * k)) + _capped(m * excess.square() / 2)  # (B, 1 + orders)
    return bounds[:, 0] + (bounds[:, 1:].mean(dim=1) if orders else 0)


def _capped(exponent: Tensor) -> Tensor:
    """−log min(2 exp(−exponent), 1)."""
    return (exponent - math.log(2)).clamp_min(0)


def _flat(noise: Tensor) -> Tensor:
    """(B, d) in at least float32."""
    if noise.dim() < 2 or noise[0].numel() < 2:
        raise InvalidInput(f"expected noise of shape (B, ...), got {tuple(noise.shape)}")
    flat = noise.flatten(1)
    return flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
