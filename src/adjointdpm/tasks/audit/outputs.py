"""What a classifier returns, as logits (B, K): whichever of the usual forms it has.

Margins, cross-entropies and DLR do not change when a constant is added to all logits of an image, so log-probabilities
are logits already.  Probabilities go through a logarithm, which is where a saturated classifier loses its gradient; the
sanity checks report that.  One logit z, as of a binary classifier, stands for the two logits (0, z), one probability p
for the two probabilities (1 - p, p).  Which of both a single output is cannot be seen where all are within [0, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NonFinite
from adjointdpm.tasks.audit.config import OutputKind

__all__ = ["as_logits", "recognise", "tensor_of"]

SUM = 1e-3  # how far the sum of probabilities may be from 1
LEAST = 1e-30  # below any probability that float32 keeps apart from 0


def tensor_of(found: Any, name: str, batch: int) -> Tensor:
    """The tensor (B, K) or (B,) in what a network returned: the tensor itself, or its `logits` or `objects`."""
    for attribute in ("logits", "objects"):
        if not isinstance(found, Tensor) and isinstance(getattr(found, attribute, None), Tensor):
            found = getattr(found, attribute)
    if isinstance(found, (tuple, list)) and len(found) == 1 and isinstance(found[0], Tensor):
        found = found[0]
    if not isinstance(found, Tensor):
        raise InvalidInput(
            f"{name} returned {type(found).__name__}; expected a tensor of shape (B, K) or (B,), such as logits"
        )
    if found.ndim not in (1, 2) or found.shape[0] != batch:
        raise InvalidInput(
            f"{name} returned shape {tuple(found.shape)} for {batch} images; expected ({batch}, K), or ({batch},) for "
            "one logit or probability"
        )
    if not found.is_floating_point():
        raise InvalidInput(f"{name} returned {found.dtype}; expected floating-point scores, not the class itself")
    if not bool(torch.isfinite(found.detach()).all()):
        # -inf is a fine log-probability of an impossible class, but has no gradient
        kind = "NaN" if bool(torch.isnan(found.detach()).any()) else "infinite values"
        raise NonFinite(f"{name} returned {kind} for an image in [0, 1]")
    return found


def recognise(found: Tensor, name: str = "the network") -> OutputKind:
    """What `found` looks like, for "auto"; raises `InvalidInput` where one output may be a logit or a probability."""
    values = found.detach().float()
    if found.ndim == 1 or found.shape[1] == 1:
        if bool(((values >= 0) & (values <= 1)).all()):
            raise InvalidInput(
                f"{name} returned one value for each image, all within [0, 1]: say outputs 'one_probability' or "
                "'one_logit', or let it return both classes"
            )
        return "one_logit"
    if bool((values >= 0).all()) and bool((values.sum(dim=1) - 1).abs().max() < SUM):
        return "probabilities"
    if bool((values <= 0).all()) and bool(values.logsumexp(dim=1).abs().max() < SUM):
        return "log_probabilities"
    return "logits"


def as_logits(found: Tensor, kind: OutputKind, name: str = "the network") -> Tensor:
    """(B, K) logits, K ≥ 2; raises `InvalidInput` where the shape does not fit the kind."""
    if kind in ("one_logit", "one_probability"):
        if found.ndim == 2 and found.shape[1] != 1:
            raise InvalidInput(f"{name} returned {found.shape[1]} outputs; outputs={kind!r} expects one")
        z = found.reshape(-1, 1)
        if kind == "one_logit":
            return torch.cat([torch.zeros_like(z), z], dim=1)
        if bool(((z.detach() < 0) | (z.detach() > 1)).any()):
            raise InvalidInput(f"{name} returned values outside [0, 1]; outputs='one_probability' expects none")
        return torch.cat([1 - z, z], dim=1).clamp_min(LEAST).log()
    if found.ndim != 2 or found.shape[1] < 2:
        raise InvalidInput(
            f"{name} returned shape {tuple(found.shape)}; outputs={kind!r} expects at least two classes, "
            "outputs='one_logit' and 'one_probability' take a single one"
        )
    if kind == "probabilities":
        if bool((found.detach() < 0).any()):
            raise InvalidInput(f"{name} returned negative values; outputs='probabilities' expects none")
        return found.clamp_min(LEAST).log()
    return found
