"""The picture's edges run where the lines of a sketch run.

Edges are the strength of the colour gradient (Sobel, strongest channel), saturated so that a faint edge counts nearly
like a strong one.  Both are blurred a little, since nobody draws to the pixel, and compared by their cosine: a sketch
does not say how strong its edges are, only where.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["edges", "line_strength", "sketch_agreement", "sketch_loss"]

FAINT = 0.15  # colour difference across an edge at which it counts half


def _blurred(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of maps (B, H, W); at the border the picture is continued by its own pixels."""
    reach = max(1, round(3 * sigma))
    x = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    kernel = (-0.5 * (x / sigma).square()).exp()
    kernel = kernel / kernel.sum()
    padded = F.pad(maps[:, None], [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


def edges(image: Tensor) -> Tensor:
    """Strength of edges (B, H, W) in [0, 1)."""
    difference, smooth = image.new_tensor([-0.5, 0, 0.5]), image.new_tensor([0.25, 0.5, 0.25])
    flat = F.pad(image, [1] * 4, mode="replicate").flatten(0, 1)[:, None]
    across = F.conv2d(F.conv2d(flat, smooth.view(1, 1, 3, 1)), difference.view(1, 1, 1, 3))
    down = F.conv2d(F.conv2d(flat, smooth.view(1, 1, 1, 3)), difference.view(1, 1, 3, 1))
    found = (across.square() + down.square())[:, 0]
    squares = found.reshape(*image.shape[:2], *found.shape[1:]).amax(dim=1)
    strength: Tensor = squares / (squares + FAINT**2)
    return strength


def line_strength(sketch: Tensor, sigma: float) -> Tensor:
    """A drawing (H, W), 1 on its lines, blurred for the comparison: (1, H, W)."""
    return _blurred(sketch[None], sigma)


def sketch_loss(image: Tensor, lines: Tensor, sigma: float) -> Tensor:
    """(B,): 1 - cosine between the blurred edges of the image and `lines` of `line_strength`."""
    ours = _blurred(edges(image), sigma).flatten(1)
    wanted = lines.to(image).flatten(1)
    return 1 - F.cosine_similarity(ours, wanted, dim=1, eps=1e-6)


def sketch_agreement(image: Tensor, lines: Tensor, sigma: float) -> Tensor:
    """The cosine itself, (B,): 1 where every edge is a line and every line an edge."""
    return 1 - sketch_loss(image, lines, sigma)
