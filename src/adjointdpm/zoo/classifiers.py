"""Two small networks that name an emoji's object and style.

`Classifier` is a residual network with batch norm: tasks may optimise against it and use its
feature maps as a perceptual distance.  `Judge` is another architecture (depthwise convolutions,
layer norm, no residual network's inductive habits shared) and another seed, and is never optimised
against: it measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .objects import OBJECTS
from .vocabulary import STYLES


@dataclass
class Scores:
    """Logits of a batch: objects (B, n_objects), styles (B, 3)."""

    objects: Tensor
    styles: Tensor


class _Network(nn.Module):
    """A pyramid of stages and two heads on the mean of the last feature map."""

    def __init__(self, stages: list[nn.Module], width: int):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(width)
        self.object_head = nn.Linear(width, len(OBJECTS))
        self.style_head = nn.Linear(width, len(STYLES))

    def features(self, image: Tensor) -> list[Tensor]:
        """Differentiable feature maps, finest first, of images (B, 3, 64, 64) in [0, 1]."""
        x, maps = 4 * (image - 0.5), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def embed(self, image: Tensor) -> Tensor:
        """(B, width) pooled features, as the heads see them."""
        return self.norm(self.features(image)[-1].mean(dim=(2, 3)))

    def forward(self, image: Tensor) -> Scores:
        pooled = self.embed(image)
        return Scores(self.object_head(pooled), self.style_head(pooled))


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def _down(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())


class Classifier(_Network):
    def __init__(self) -> None:
        widths = (24, 48, 96, 160)
        stages = []
        for inside, outside in zip((3, *widths), widths, strict=False):
            stages.append(nn.Sequential(_down(inside, outside), _Residual(outside)))
        super().__init__(stages, widths[-1])


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Depthwise(nn.Module):
    def __init__(self, width: int, kernel: int = 5, expansion: int = 3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width),
            _ChannelNorm(width),
            nn.Conv2d(width, expansion * width, 1),
            nn.GELU(),
            nn.Conv2d(expansion * width, width, 1),
        )
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.body(x)


class Judge(_Network):
    def __init__(self) -> None:
        stages: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, 32, 4, 4), _ChannelNorm(32), nn.Conv2d(32, 64, 3, padding=1), _Depthwise(64), _Depthwise(64)),
            nn.Sequential(_ChannelNorm(64), nn.Conv2d(64, 128, 2, 2), _Depthwise(128), _Depthwise(128)),
            nn.Sequential(_ChannelNorm(128), nn.Conv2d(128, 192, 2, 2), _Depthwise(192), _Depthwise(192)),
        ]
        super().__init__(stages, 192)
