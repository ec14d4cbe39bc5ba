"""Classifier-free guidance: eps-tilde = s eps(x, t, c) + (1 - s) eps(x, t, empty)  (paper, section 2.1).

For every prediction type eps-hat = a raw + b x with a and b the same for both branches, so the sum is taken on the raw
outputs: nothing is divided by alpha or sigma, and the result is again a raw output.  At s = 1 exactly (a number, not a
tensor) the unconditional branch is not evaluated.  Below 1 the sum is what it says, down to s = 0, which is the
unconditional sample; diffusers' Stable Diffusion pipelines take s <= 1 to mean the conditional branch alone.

Two variants of use at high s: guidance within an interval of noise levels only (Kynkäänniemi et al. 2024), outside of
which the conditional branch is evaluated alone; and rescaling towards the standard deviation of the conditional output
(Lin et al. 2024, eq. 15-16), which is not linear and whose derivative autograd takes outside the network's graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, UnreachedGradient
from adjointdpm.models.denoiser import Denoiser
from adjointdpm.models.prediction import Prediction
from adjointdpm.models.tree import tensors, tree_map

__all__ = ["Counter", "GuidedDenoiser", "check_interval"]


@dataclass
class Counter:
    """How often the network was asked; replays in backward are not counted here.

    Attributes:
        nfe: evaluations of the guided field, the NFE of the paper.
        network_calls: forward calls of the network (two per evaluation with sequential branches).
        sample_evaluations: samples through the network: batch size times branches, summed.
    """

    nfe: int = 0
    network_calls: int = 0
    sample_evaluations: int = 0


class GuidedDenoiser:
    """A denoiser with its conditioning and guidance bound: `(x, t) -> Prediction`, what the ODE forms take.

    Args:
        denoiser: the wrapped network.
        cond, uncond: conditioning trees (see `models.tree`); a leaf with a leading 1 is expanded to the batch.
        guidance: s, a number, or a tensor of one per sample (B,) or 0-dim; a tensor may require grad.
        x: (B, ...) the state at which sampling starts: gives batch, device and dtype.
        interval: (low, high) in rho = sigma / alpha: guidance applies where low <= rho <= high.
        rescale: phi in [0, 1]: the share of the rescaled output, 0 for none, 0.7 in the paper.

    Raises:
        InvalidInput: guidance or a conditioning tensor is of another length than the batch; guidance is not finite, or
            other than 1 without uncond; an interval that is not 0 <= low < high; a rescale outside [0, 1].
        UnreachedGradient: guidance or a tensor of uncond requires grad but is not part of the computation.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        cond: Any,
        uncond: Any,
        guidance: Tensor | float,
        x: Tensor,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
    ) -> None:
        self.denoiser = denoiser
        self.counter = Counter()
        self.interval, self.rescale = check_interval(interval), _check_rescale(rescale)
        self.guidance = self._check_guidance(guidance, x)
        self.cond, self.uncond = (_expand(tree, len(x)) for tree in (cond, uncond))
        self.guided = isinstance(guidance, Tensor) or guidance != 1
        if isinstance(guidance, Tensor) and uncond is None:
            if guidance.requires_grad:
                raise UnreachedGradient("guidance requires grad but there is no uncond, so it has no effect")
            self.guided = bool((guidance != 1).any())
        if self.guided and uncond is None:
            raise InvalidInput(f"guidance={guidance!r} needs uncond, the conditioning of the unconditional branch")
        if not self.guided and any(leaf.requires_grad for leaf in tensors(uncond)):
            raise UnreachedGradient(
                "uncond requires grad but guidance=1 does not evaluate the unconditional branch: "
                "pass another guidance, or guidance as a tensor"
            )

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """The guided prediction at state x (B, ...), time t (0-dim float64)."""
        return self.denoiser.interpret(self._raw(x, t), x, t)

    def guided_at(self, t: Tensor) -> bool:
        """Whether both branches count at time t (0-dim float64)."""
        if not self.guided or self.interval is None:
            return self.guided
        low, high = self.interval
        return low <= float(self.denoiser.schedule.rho(t)) <= high

    def _raw(self, x: Tensor, t: Tensor) -> Tensor:
        net, t_net = self.denoiser.network, self.denoiser.time_map(t)
        # An alias, so that autograd sums the network's uses of x before it adds those of the solver: replay sums in
        # that order too, and the gradients are equal bit for bit.
        x = x.view_as(x)
        self.counter.nfe += 1
        if not self.guided_at(t):
            return self._counted(net(x, t_net, self.cond))
        if self.denoiser.branches == "batched":
            conditional, empty = self._counted(net(x, t_net, self.cond, self.uncond)).chunk(2)
        else:
            conditional = self._counted(net(x, t_net, self.cond))
            empty = self._counted(net(x, t_net, self.uncond))
        return self._rescaled(empty + self.guidance * (conditional - empty), conditional)

    def _rescaled(self, guided: Tensor, conditional: Tensor) -> Tensor:
        if not self.rescale:
            return guided
        each = tuple(range(1, guided.ndim))
        ratio = conditional.std(each, keepdim=True) / guided.std(each, keepdim=True)
        return guided * (1 + self.rescale * (ratio - 1))

    def _counted(self, out: Tensor) -> Tensor:
        self.counter.network_calls += 1
        self.counter.sample_evaluations += len(out)
        return out

    @staticmethod
    def _check_guidance(guidance: Tensor | float, x: Tensor) -> Tensor | float:
        """Guidance that broadcasts over x: a float, or a tensor (B, 1, ...) in the dtype of x."""
        if not isinstance(guidance, Tensor):
            if isinstance(guidance, bool) or not isinstance(guidance, Real) or not math.isfinite(guidance):
                raise InvalidInput(f"guidance must be a finite number or a tensor, got {guidance!r}")
            return float(guidance)
        if guidance.ndim > 1 or (guidance.ndim == 1 and len(guidance) != len(x)):
            raise InvalidInput(
                f"guidance must be one number or one per sample: a tensor of shape () or ({len(x)},), "
                f"got {tuple(guidance.shape)}"
            )
        if not bool(torch.isfinite(guidance.detach()).all()):
            raise InvalidInput("guidance has values that are not finite")
        shape = (-1, *[1] * (x.ndim - 1)) if guidance.ndim else ()
        return guidance.to(x.device, x.dtype).reshape(shape)


def check_interval(interval: Any) -> tuple[float, float] | None:
    """`interval` as two floats, or None; InvalidInput unless 0 <= low < high."""
    if interval is None:
        return None
    try:
        low, high = (float(end) for end in interval)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low < high:
        raise InvalidInput(
            f"guidance_interval={interval!r}: expected (low, high) in sigma / alpha with 0 <= low < high, or None"
        )
    return low, high


def _check_rescale(rescale: Any) -> float:
    if isinstance(rescale, bool) or not isinstance(rescale, Real) or not 0 <= float(rescale) <= 1:
        raise InvalidInput(f"guidance_rescale={rescale!r}: expected a number from 0 (none) to 1")
    return float(rescale)


def _expand(tree: Any, batch: int) -> Any:
    """`tree` with every tensor of leading dimension 1 expanded to the batch; InvalidInput for one of another length."""

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == batch:
            return value
        if len(value) == 1:
            return value.expand(batch, *value.shape[1:])
        raise InvalidInput(
            f"a conditioning tensor has shape {tuple(value.shape)}, but its first dimension must be 1 or the batch of "
            f"x, {batch}; what all samples share belongs into the network"
        )

    return tree_map(leaf, tree)
