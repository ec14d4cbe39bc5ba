"""How large the gradient is at each call on its way back: a profile, clipping, and where a NaN came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from adjointdpm.errors import InvalidInput, NonFinite

__all__ = ["CallNorm", "Norms"]


@dataclass(frozen=True)
class CallNorm:
    """Norms (l2 over all tensors) at one call in backward.

    Attributes:
        call: its name with its number in the forward.
        incoming: of the gradient with respect to the call's results, before clipping.
        outgoing: of the gradient with respect to its arguments; the ratio of the two is the growth in this call.
        clipped: whether the incoming gradient was scaled down.
    """

    call: str
    incoming: float
    outgoing: float
    clipped: bool


@dataclass
class Norms:
    """Measured in backward, call by call, last call first; costs a synchronisation for each on CUDA.

    Args:
        clip: largest norm of the gradient that enters a call; a larger one is scaled down to it.

    Attributes:
        profile: what was measured so far.
    """

    clip: float | None = None
    profile: list[CallNorm] = field(default_factory=list)

    def __post_init__(self) -> None:
        clip = self.clip
        if clip is not None and (
            isinstance(clip, bool) or not isinstance(clip, int | float) or not 0 < clip < math.inf
        ):
            raise InvalidInput(f"clip={clip!r}: expected a positive number, the largest norm, or None")

    def enter(
        self, call: str, cotangents: Sequence[torch.Tensor | None]
    ) -> tuple[Sequence[torch.Tensor | None], tuple[float, bool]]:
        """The cotangents, clipped if they are too large; and what `leave` needs to know of them.

        Raises:
            NonFinite: they hold a NaN or an infinity already: the loss, or the code between the calls.
        """
        norm = _norm(cotangents)
        if not math.isfinite(norm):
            raise NonFinite(
                f"the gradient that comes back to the result of {call} is not finite: it arose after that call, in the "
                "loss, in the code between the calls, or by overflow of a low precision"
            )
        if self.clip is None or norm <= self.clip:
            return cotangents, (norm, False)
        scale = self.clip / norm
        return [None if c is None else c * scale for c in cotangents], (norm, True)

    def leave(self, call: str, entered: tuple[float, bool], gradients: Sequence[torch.Tensor | None]) -> None:
        """Note the gradients with respect to the call's arguments.

        Raises:
            NonFinite: they are not finite, while what came in was.
        """
        norm = _norm(gradients)
        if not math.isfinite(norm):
            raise NonFinite(
                f"the gradient became NaN or infinite in the backward of {call}, with a gradient of norm "
                f"{entered[0]:.3g} coming in: look at that call's input and at the network's precision"
            )
        self.profile.append(CallNorm(call, entered[0], norm, entered[1]))


def _norm(tensors: Sequence[torch.Tensor | None]) -> float:
    norms = [torch.linalg.vector_norm(t.detach().float()) for t in tensors if t is not None]
    return float(torch.stack([n.to(norms[0].device) for n in norms]).norm()) if norms else 0.0
