"""Backgrounds of the composed images: plain colours, vertical gradients, and two-colour patterns.

A pattern is its named colour on a pale tint of that colour.  Period and phase are fixed to the
autoencoder's grid of 4 pixels, so that one pattern is one latent pattern; `jitter` moves it for the
autoencoder's own training, which must not depend on the phase.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adjointdpm.zoo.lexicon import COLORS, PATTERNS

PERIOD = 16


def palette() -> Tensor:
    """(number of colours, 3) RGB in the order of the vocabulary."""
    return torch.tensor(list(COLORS.values()))


def pattern_masks(offset_y: Tensor, offset_x: Tensor, size: int = 64) -> Tensor:
    """(B, patterns, 1, size, size): 1 where the pattern's own colour is, smoothed at its edges."""
    y = (torch.arange(size).view(1, -1, 1) + 0.5 + offset_y.view(-1, 1, 1)) % PERIOD
    x = (torch.arange(size).view(1, 1, -1) + 0.5 + offset_x.view(-1, 1, 1)) % PERIOD
    half = PERIOD // 2

    def square(v: Tensor) -> Tensor:  # +1 on the first half of the period, -1 on the second
        return torch.where(v < half, 1.0, -1.0)

    stripes = (0.5 + 0.5 * square(x)).expand(-1, size, -1)
    checks = 0.5 + 0.5 * square(x) * square(y)

    def disc(cy: float, cx: float) -> Tensor:
        dy = (y - cy + half) % PERIOD - half
        dx = (x - cx + half) % PERIOD - half
        return (4.0 - (dy.square() + dx.square()).sqrt()).clamp(0, 1)

    dots = torch.maximum(disc(4, 4), disc(12, 12))
    masks = {"stripes": stripes, "dots": dots, "checks": checks}
    return torch.stack([masks[name] for name in PATTERNS], dim=1)[:, :, None]


def paint(kind: Tensor, first: Tensor, second: Tensor, offset_y: Tensor, offset_x: Tensor, size: int = 64) -> Tensor:
    """(B, 3, size, size) backgrounds.

    `kind` is 0 plain, 1 gradient, 2 + k pattern k; `first` and `second` are RGB (B, 3).  A gradient
    runs from `first` at the top to `second` at the bottom; a plain colour uses `first` only.
    """
    batch = kind.shape[0]
    ramp = torch.linspace(0, 1, size).view(1, 1, size, 1).expand(batch, 1, size, size)
    masks = 1 - pattern_masks(offset_y, offset_x, size)  # share of the second colour
    plain = torch.zeros(batch, 1, 1, size, size)
    shares = torch.cat([plain, ramp[:, None], masks], dim=1)
    share = shares[torch.arange(batch), kind]
    first, second = first.view(-1, 3, 1, 1), second.view(-1, 3, 1, 1)
    return first + share * (second - first)


def pale(color: Tensor) -> Tensor:
    """The tint a pattern lies on: mostly white, or light gray under white itself."""
    tint = 0.22 * color + 0.78
    near_white = color.amin(dim=-1, keepdim=True) > 0.9
    return torch.where(near_white, torch.full_like(color, 0.72), tint)
