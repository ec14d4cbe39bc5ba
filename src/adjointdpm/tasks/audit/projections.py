"""The bounds: where the changed noise may lie, and the nearest point that does.

Three of them, with the noise x_T (C, h, w) of unit variance in each number and d numbers:

- linf: |δ| ≤ τ in each number, as in the paper.
- l2: ‖δ‖₂ ≤ τ √d, a root mean square of τ, so that the l∞ bound of the same τ lies within it.
- shell: Gaussian noise lies on a thin shell, ‖x‖ ≈ √d within about 0.7.  The changed noise keeps the norm of the drawn
  one, and ‖δ‖₂ ≤ τ √d; what is left is a cap of a sphere.  At τ = 2 it is all noise of that norm.

Every function takes and returns a batch and treats its images apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adjointdpm.tasks.audit.config import Norm

__all__ = ["Bound"]

TINY = 1e-12
FAR = 1e3  # a point so far out is projected to the edge
WITHIN = 1e-6  # share by which a rounded length is shortened


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def _norm(x: Tensor) -> Tensor:
    """(B, 1, 1, …) Euclidean norms, in the number format of x."""
    size: Tensor = torch.linalg.vector_norm(_flat(x), dim=1)
    return size.reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class Bound:
    """`tau` in `norm`."""

    norm: Norm
    tau: float

    def radius(self, center: Tensor) -> float:
        """Largest ‖δ‖₂ of "l2" and "shell"."""
        return self.tau * math.sqrt(center[0].numel())

    def project(self, x: Tensor, center: Tensor) -> Tensor:
        """The point of the bound around `center` (B, …) that is nearest to x (on the shell: in direction)."""
        if self.norm == "linf":
            return center + (x - center).clamp(-self.tau, self.tau)
        if self.norm == "l2":
            delta = x - center
            return center + delta * (self.radius(center) / _norm(delta).clamp_min(TINY)).clamp(max=1.0)
        return self._on_shell(x, center)

    def _on_shell(self, x: Tensor, center: Tensor) -> Tensor:
        size = _norm(center)
        pole = center / size
        widest = 2 * torch.asin((self.radius(center) / (2 * size)).clamp(max=1.0))  # angle of the cap
        along = _flat(x * pole).sum(dim=1).reshape(size.shape)
        across = x - along * pole
        across_size = _norm(across)
        angle = torch.atan2(across_size, along)
        turned = torch.minimum(angle, widest)
        side = across / across_size.clamp_min(TINY)
        return size * (torch.cos(turned) * pole + torch.sin(turned) * side)

    def step(self, gradient: Tensor, length: float) -> Tensor:
        """The steepest step of size `length` τ in this norm: of signs, or along the gradient; at least float32."""
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        if self.norm == "linf":
            return self.tau * length * gradient.sign()
        largest = _flat(gradient).abs().amax(dim=1).reshape(-1, *[1] * (gradient.ndim - 1))
        along = gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny)  # squares that fit
        return self.radius(gradient) * length * along / _norm(along).clamp_min(TINY)

    def draw(self, center: Tensor, generator: torch.Generator, corner: bool = False) -> Tensor:
        """One random point within the bound of a single noise `center` (1, …); at its edge if `corner`.

        In the number format of float32 on the CPU, so that a seed means the same everywhere.
        """
        if self.norm == "linf":
            unit = torch.rand(center.shape, generator=generator) * 2 - 1
            delta = self.tau * (unit.sign() if corner else unit)
            return self.project(center + delta.to(center), center)
        unit = torch.randn(center.shape, generator=generator)
        share = 1.0 if corner else float(torch.rand((), generator=generator))
        within = replace(self, tau=self.tau * max(share, TINY))
        far = FAR * within.radius(center) * unit / _norm(unit)
        return within.project(center + far.to(center), center)

    def enforce(self, x: Tensor, center: Tensor) -> Tensor:
        """`project` so that not even the last digit of x is outside."""
        device, x, center = x.device, x.cpu(), center.cpu()  # some devices have no float64
        if self.norm == "linf":
            exact = center.double() + (x.double() - center.double()).clamp(-self.tau, self.tau)
            x = exact.to(x.dtype)
            outside = (x.double() - center.double()).abs() > self.tau
            return torch.where(outside, torch.nextafter(x, center), x).to(device)
        x, share = self.project(x, center), WITHIN
        while self.norm == "l2" and bool((_norm(x.double() - center.double()) > self.radius(center)).any()):
            x = center + (self.project(x, center) - center) * (1 - share)
            share *= 2
        return x.to(device)

    def excess(self, x: Tensor, center: Tensor) -> Tensor:
        """(B,) how far x is outside, in units of τ; 0 within, but for rounding."""
        x, center = x.cpu(), center.cpu()
        delta = x.double() - center.double()
        if self.norm == "linf":
            return (_flat(delta).abs().amax(dim=1) / self.tau - 1).clamp_min(0)
        outside = (_norm(delta).flatten() / self.radius(center) - 1).clamp_min(0)
        if self.norm == "l2":
            return outside
        drift = (_norm(x.double()) / _norm(center.double()) - 1).abs().flatten()
        return torch.maximum(outside, drift)
