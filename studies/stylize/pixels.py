"""Neural style transfer (Gatys et al. 2015): the pixels of each image are optimised, and the model is not asked.

It starts from the very image that is to be stylized, with the same loss in the same network; what it learns is one
image, so every further image costs as much again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adjointdpm.losses.style import StyleAndContent

__all__ = ["stylize_pixels"]


def stylize_pixels(loss: StyleAndContent, images: Tensor, evaluations: int, lr: float, batch: int = 10) -> Tensor:
    """Images (B, 3, H, W) after Adam on their pixels, with `evaluations` forwards and VJPs over all of them."""
    steps = max(1, evaluations // (2 * len(images)))
    done = []
    for before in images.split(batch):
        pixels = before.clone().requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=lr)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            optimizer.zero_grad()
            (loss(pixels, before) * len(before)).backward()
            optimizer.step()
            with torch.no_grad():
                pixels.clamp_(0, 1)
        done.append(pixels.detach())
    return torch.cat(done)
