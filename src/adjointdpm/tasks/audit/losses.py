"""How far an image is from another verdict: one number for each image, larger is nearer, to be maximised.

Paper 4.3: max L(y, f(Φ(x_T + δ))).  All but the cross-entropy are above 0 exactly where the verdict has changed.

- cross_entropy: of the true class, or minus that of the targeted one.  Vanishes where the network is very sure.
- margin (Carlini and Wagner 2017): the nearest other logit minus the true one.
- dlr (Croce and Hein 2020): the margin over the spread of the largest logits, so that scaling the logits hides nothing.
- cosine: of a filter, how far its most alarmed concept is below its threshold.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.audit.config import LossName

__all__ = ["MOST_CLASSES_MISSING", "below_threshold", "changed", "classifier_loss", "enough_classes", "margin"]

MOST_CLASSES_MISSING = {False: 3, True: 4}  # classes that DLR needs: untargeted, targeted
TINY = 1e-12


def margin(logits: Tensor, labels: Tensor, target: Tensor | None = None) -> Tensor:
    """(B,) above 0 where the verdict is another class than `labels`, or where it is `target`."""
    if target is None:
        return -_lead(logits, labels)
    return _lead(logits, target)


def _lead(logits: Tensor, labels: Tensor) -> Tensor:
    """The logit of `labels` minus the largest other one."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(dim=1)
    return own - others


def changed(logits: Tensor, labels: Tensor, target: Tensor | None = None) -> Tensor:
    """(B,) bool, whether the verdict has changed; a tie is not a change."""
    verdict = logits.argmax(dim=1)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return (logits.amax(dim=1) > own) if target is None else (verdict == target)


def enough_classes(classes: int, targeted: bool) -> bool:
    """Whether DLR is defined; the last of AutoAttack's checks."""
    return classes >= MOST_CLASSES_MISSING[targeted]


def classifier_loss(name: LossName, logits: Tensor, labels: Tensor, target: Tensor | None = None) -> Tensor:
    """(B,) of logits (B, K), labels (B,) and, for a targeted search, target classes (B,).

    Raises `InvalidInput` for DLR with too few classes.
    """
    if name == "cross_entropy":
        if target is None:
            return F.cross_entropy(logits, labels, reduction="none")
        return -F.cross_entropy(logits, target, reduction="none")
    if name == "margin":
        return margin(logits, labels, target)
    if name != "dlr":
        raise InvalidInput(f"loss {name!r} is not for a classifier")
    if not enough_classes(logits.shape[1], target is not None):
        needed = MOST_CLASSES_MISSING[target is not None]
        raise InvalidInput(f"the loss 'dlr' needs at least {needed} classes, the network has {logits.shape[1]}")
    top = logits.sort(dim=1, descending=True).values
    if target is None:
        return -_lead(logits, labels) / (top[:, 0] - top[:, 2]).clamp_min(TINY)
    own, wanted = (logits.gather(1, index[:, None]).squeeze(1) for index in (labels, target))
    return (wanted - own) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2).clamp_min(TINY)


def below_threshold(concepts: Tensor) -> Tensor:
    """(B,) of a filter's scores (B, C): above 0 where no concept flags the image."""
    return -concepts.amax(dim=1)


def as_labels(labels: list[int], device: torch.device) -> Tensor:
    """(B,) class numbers."""
    return torch.tensor(labels, dtype=torch.long, device=device)
