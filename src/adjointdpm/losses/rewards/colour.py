"""Two measures of colour: how colourful an image is to people, and how far its colours lie from grey."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["chroma", "colourfulness"]

TINY = 1e-8  # under square roots, whose slope at 0 is infinite

# CIE 1931 XYZ of linear sRGB, each row divided by its sum: the white point D65 becomes (1, 1, 1).
XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
KNEE = 6 / 29


def colourfulness(images: Tensor) -> Tensor:
    """Hasler and Süsstrunk (2003), "Measuring colourfulness in natural images", their M⁽³⁾, divided by 100.

    Opponent axes rg = R − G and yb = (R + G)/2 − B in units of 0 … 255, σ and µ the lengths of their standard
    deviations and of their means: M = σ + 0.3 µ.  Their words: 0.15 slightly, 0.45 averagely, 0.82 highly colourful.
    images: (B, 3, H, W) in [0, 1]; returns (B,).
    """
    r, g, b = (255 * images).unbind(dim=1)
    axes = torch.stack([r - g, (r + g) / 2 - b], dim=1).flatten(2)  # (B, 2, H W)
    mean = axes.mean(dim=2)
    variance = (axes - mean[..., None]).square().mean(dim=2)
    return (_root(variance.sum(dim=1)) + 0.3 * _root(mean.square().sum(dim=1))) / 100


def chroma(images: Tensor) -> Tensor:
    """Mean chroma √(a² + b²) in CIELAB (D65), divided by 100: another measure of colour than `colourfulness`.

    images: (B, 3, H, W), sRGB in [0, 1]; returns (B,).
    """
    linear = torch.where(images <= 0.04045, images / 12.92, ((images.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(XYZ, dtype=images.dtype, device=images.device)
    x, y, z = torch.einsum("ij,bjhw->ibhw", matrix / matrix.sum(dim=1, keepdim=True), linear).unbind()
    f_x, f_y, f_z = _lab(x), _lab(y), _lab(z)
    a, b = 500 * (f_x - f_y), 200 * (f_y - f_z)
    return _root(a.square() + b.square()).flatten(1).mean(dim=1) / 100


def _lab(t: Tensor) -> Tensor:
    return torch.where(t > KNEE**3, t.clamp_min(KNEE**3) ** (1 / 3), t / (3 * KNEE**2) + 4 / 29)


def _root(squared: Tensor) -> Tensor:
    return torch.sqrt(squared + TINY)
