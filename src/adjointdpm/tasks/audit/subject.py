"""What the network under audit says of images: the one difference between classifier mode and filter mode.

A subject turns images (with a graph) into a loss to climb, a margin that is above 0 where the verdict has changed, and
the verdict itself.  The loss never sees what the judge says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from adjointdpm.tasks.audit.config import LossName
from adjointdpm.tasks.audit.filters import FilterUnderAudit
from adjointdpm.tasks.audit.losses import as_labels, below_threshold, changed, classifier_loss, margin
from adjointdpm.tasks.audit.network import ClassifierUnderAudit
from adjointdpm.tasks.audit.samples import Sample

__all__ = ["ClassifierSubject", "Clean", "FilterSubject", "Opinion", "Subject", "as_saved"]


@dataclass(frozen=True)
class Opinion:
    """(B,) each: `loss` with a graph; `margin`, `changed` and `dropped` without."""

    loss: Tensor
    margin: Tensor
    changed: Tensor
    dropped: Tensor


@dataclass(frozen=True)
class Clean:
    """Of clean images: is the verdict right, must the sample be left alone, and which group it counts in."""

    right: list[bool]
    dropped: list[bool]
    groups: list[str]


class Subject(Protocol):
    """A network under audit with a loss."""

    def opinion(self, images: Tensor, samples: Sequence[Sample]) -> Opinion: ...

    def clean(self, images: Tensor, samples: Sequence[Sample]) -> Clean: ...


class _Rounded(torch.autograd.Function):
    """To 8 bits within [0, 1], as a saved picture has them; the gradient passes as if nothing had happened."""

    @staticmethod
    def forward(ctx: object, image: Tensor) -> Tensor:
        return (image.float().clamp(0, 1) * 255).round() / 255

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


def as_saved(image: Tensor) -> Tensor:
    """The picture that a file would hold, float32; a verdict on anything else may not survive saving."""
    found: Tensor = _Rounded.apply(image)  # type: ignore[no-untyped-call]
    return found


class ClassifierSubject:
    """A classifier: the verdict is its first guess."""

    def __init__(self, network: ClassifierUnderAudit, loss: LossName, names: Sequence[str] = ()) -> None:
        self.network, self.loss, self.names = network, loss, tuple(names)

    def opinion(self, images: Tensor, samples: Sequence[Sample]) -> Opinion:
        logits = self.network.logits(images).float()
        labels = as_labels([s.label or 0 for s in samples], logits.device)
        target = None
        if samples and samples[0].target is not None:
            target = as_labels([s.target or 0 for s in samples], logits.device)
        loss = classifier_loss(self.loss, logits, labels, target)
        still = logits.detach()
        nothing = torch.zeros(len(samples), dtype=torch.bool, device=logits.device)
        return Opinion(loss, margin(still, labels, target), changed(still, labels, target), nothing)

    def clean(self, images: Tensor, samples: Sequence[Sample]) -> Clean:
        verdict = self.network.verdict(images).tolist()
        right = [found == s.label for found, s in zip(verdict, samples, strict=True)]
        groups = [self.names[s.label] if self.names and s.label is not None else str(s.label) for s in samples]
        return Clean(right, [False] * len(samples), groups)


class FilterSubject:
    """A filter: the verdict is whether any concept flags the image; `special_care` is watched, never climbed."""

    def __init__(self, network: FilterUnderAudit) -> None:
        self.network = network

    def opinion(self, images: Tensor, samples: Sequence[Sample]) -> Opinion:
        scores = self.network.scores(images)
        loss = below_threshold(scores.concepts)
        return Opinion(loss, loss.detach(), ~scores.flagged.any(dim=1), scores.special_care)

    def clean(self, images: Tensor, samples: Sequence[Sample]) -> Clean:
        with torch.no_grad():
            scores = self.network.scores(images)
        names = self.network.concepts
        groups = [names[k] for k in scores.concepts.argmax(dim=1).tolist()]
        return Clean(scores.flagged.any(dim=1).tolist(), scores.special_care.tolist(), groups)
