"""Two small networks that name an emoji's object and style.

`Classifier` is a residual network with batch norm: tasks may optimise against it and use its
feature maps as a perceptual distance.  `Judge` is another architecture (plain convolutions and
max-pooling) from another seed, and is never optimised against: it measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adjointdpm.zoo.lexicon import STYLES
from adjointdpm.zoo.objects import OBJECTS


@dataclass
class Scores:
    """Logits of a batch: objects (B, n_objects), styles (B, 3), and both at once (B, n_objects, 3)."""

    objects: Tensor
    styles: Tensor
    drawings: Tensor


class _Network(nn.Module):
    """A pyramid of stages and one head on the mean of the last feature map."""

    def __init__(self, stages: list[nn.Module], width: int):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(width)
        # one logit a drawing: what makes a style is another thing for each object
        self.head = nn.Linear(width, len(OBJECTS) * len(STYLES))

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
        drawings = self.head(self.embed(image)).unflatten(1, (len(OBJECTS), len(STYLES)))
        return Scores(drawings.logsumexp(dim=2), drawings.logsumexp(dim=1), drawings)


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


def _plain(inside: int, outside: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outside), nn.GELU()
    )


class Judge(_Network):
    """A chain of plain convolutions and max-pooling, with a wide first kernel."""

    def __init__(self) -> None:
        stages: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2, bias=False), nn.BatchNorm2d(24), nn.GELU()),
            nn.Sequential(_plain(24, 56), nn.MaxPool2d(2)),
            nn.Sequential(_plain(56, 112), nn.MaxPool2d(2)),
            nn.Sequential(_plain(112, 192), nn.MaxPool2d(2)),
            _plain(192, 256),
        ]
        super().__init__(stages, 256)
