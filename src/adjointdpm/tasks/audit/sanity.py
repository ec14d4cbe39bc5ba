"""Can the result be believed?  The six checks of AutoAttack (Croce and Hein 2020), on the network and on the outcome.

A network that gives no useful gradient looks robust without being so.  Each check says what it found and what that
means; none stops the audit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.tasks.audit.config import OutputKind
from adjointdpm.tasks.audit.losses import enough_classes
from adjointdpm.tasks.audit.tally import Tally

__all__ = ["Check", "check_outcome", "checks_of_network"]

RUNS, DIFFERS = 5, 1e-4
MASKED = 0.002  # share of samples that random draws may win alone


@dataclass(frozen=True)
class Check:
    """`passed` (None: it could not be asked), and in words what was found."""

    name: str
    passed: bool | None
    finding: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def checks_of_network(
    outputs: Callable[[Tensor], Tensor],
    gradient: Callable[[Tensor], Tensor],
    images: Tensor,
    kind: OutputKind | None,
    classes: int,
    targeted: bool,
) -> list[Check]:
    """Five of the six, which need no search.

    Args:
        outputs: images -> what the network returns, one row for each.
        gradient: images -> gradient of the loss with respect to them.
        images: a few clean ones, (B, 3, H, W).
        kind: what a classifier returns; None for a filter.
        classes: how many it has.
        targeted: whether the search is targeted.
    """
    return [
        _randomised(outputs, images),
        _probabilities(kind),
        _zero_gradient(gradient(images)),
        _inner_autograd(outputs, images),
        _few_classes(kind, classes, targeted),
    ]


def _randomised(outputs: Callable[[Tensor], Tensor], images: Tensor) -> Check:
    with torch.no_grad():
        found = [outputs(images).double() for _ in range(RUNS)]
    scale = max(float(found[0].abs().max()), 1e-12)
    most = max(float((other - found[0]).abs().max()) for other in found[1:]) / scale
    if most > DIFFERS:
        return Check("randomised", False, f"{RUNS} runs on the same images differ by {most:.1e} of the largest output; "
                     "average over the randomness before you trust a rate")  # fmt: skip
    return Check("randomised", True, f"{RUNS} runs on the same images agree")


def _probabilities(kind: OutputKind | None) -> Check:
    if kind in ("probabilities", "one_probability"):
        return Check("outputs", False, "the network returns probabilities: where they are 0 or 1 to the last digit the "
                     "gradient is gone; audit its logits if you can")  # fmt: skip
    return Check("outputs", True, "scores of a filter" if kind is None else f"the network returns {kind}")


def _zero_gradient(gradient: Tensor) -> Check:
    zero = int((gradient.flatten(1).abs().amax(dim=1) == 0).sum())
    if zero:
        return Check("zero gradient", False, f"{zero} of {len(gradient)} clean images have a gradient of exactly zero; "
                     "try the margin or DLR loss, or logits in place of probabilities")  # fmt: skip
    return Check("zero gradient", True, f"none of {len(gradient)} clean images has a zero gradient")


def _inner_autograd(outputs: Callable[[Tensor], Tensor], images: Tensor) -> Check:
    with torch.enable_grad(), _autograd_calls() as calls:
        outputs(images.detach().clone().requires_grad_())
    if calls:
        return Check("optimisation inside", False, f"the network calls {calls[0]} itself: a defence that optimises at "
                     "test time needs an audit made for it")  # fmt: skip
    return Check("optimisation inside", True, "the network takes no gradients of its own")


@contextmanager
def _autograd_calls() -> Iterator[list[str]]:
    seen: list[str] = []
    places: list[tuple[Any, str]] = [(torch.autograd, "grad"), (torch.autograd, "backward"), (torch.Tensor, "backward")]
    before = [getattr(owner, name) for owner, name in places]

    def watched(original: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(label)
            return original(*args, **kwargs)

        return call

    try:
        for (owner, name), original in zip(places, before, strict=True):
            setattr(owner, name, watched(original, f"{owner.__name__}.{name}"))
        yield seen
    finally:
        for (owner, name), original in zip(places, before, strict=True):
            setattr(owner, name, original)


def _few_classes(kind: OutputKind | None, classes: int, targeted: bool) -> Check:
    if kind is None:
        return Check("classes", True, "a filter has no classes; DLR is not for it")
    if not enough_classes(classes, targeted):
        return Check("classes", False, f"{classes} classes are too few for the DLR loss; margin and cross-entropy work")
    return Check("classes", True, f"{classes} classes")


def check_outcome(tally: Tally) -> Check:
    """The sixth: a search without gradients that wins where gradients lose."""
    name = "gradient masking"
    if "best_of_n" not in tally.methods:
        return Check(name, None, "not asked: the baseline best_of_n was left out")
    if tally.n and tally.beyond / tally.n > MASKED:
        return Check(name, False, f"random draws changed the verdict of {tally.beyond} of {tally.n} samples where "
                     "exact gradients did not: gradients are masked, or too few steps were made; the true rate is "
                     "higher")  # fmt: skip
    return Check(name, True, "no sample that random draws won and exact gradients lost")
