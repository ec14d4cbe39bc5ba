"""A loss is tried before any long work: scalar, finite, and with a gradient that reaches the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.losses.users import blamed, trial

__all__ = ["check_loss", "check_value"]


def check_value(value: object, step: int | None = None) -> Tensor:
    """`value` if it is a finite real scalar with a graph, as a tensor of shape ().

    Raises `InvalidInput` (no tensor, not scalar), `NotDifferentiable` (no gradient, or integers) or `NonFinite`, which
    name the step if one is given.
    """
    at = "" if step is None else f" at step {step}"
    if not isinstance(value, Tensor):
        raise InvalidInput(f"the loss returned {type(value).__name__}{at}; expected a scalar tensor with a gradient")
    if value.numel() != 1:
        raise InvalidInput(
            f"the loss returned shape {tuple(value.shape)}{at}; expected a scalar: reduce it, for example with .mean()"
        )
    if not value.is_floating_point():
        raise NotDifferentiable(
            f"the loss returned {value.dtype}{at}: integers, booleans and complex numbers have no gradient here; "
            "expected a real floating-point scalar"
        )
    if not bool(torch.isfinite(value)):
        raise NonFinite(f"the loss is {float(value.detach())}{at}; it must be finite")
    if not value.requires_grad:
        raise NotDifferentiable(
            f"the loss has no gradient{at}: it is detached from the image. Remove .detach(), .item(), .numpy(), "
            "torch.no_grad() or a conversion to integers or PIL between image and loss."
        )
    return value.reshape(())


@trial()
def check_loss(loss: Callable[[Tensor, Tensor], Tensor], image: Tensor, target: Tensor) -> None:
    """Try `loss` once on a copy of `image` (B, 3, H, W), slightly perturbed so that image = target is no special case.

    Raises `InvalidInput` where it fails, is no scalar or not finite, and `NotDifferentiable` where it has no gradient
    to the image, or one of zero everywhere (rounding, argmax, comparison).
    """
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    probe = (0.9 * image.detach() + 0.1 * noise).requires_grad_()
    with torch.enable_grad():
        value = check_value(loss(probe, target))
        with blamed("the backward of the loss"):
            (gradient,) = torch.autograd.grad(value, probe, allow_unused=True)
    if gradient is None:
        raise NotDifferentiable("the loss does not depend on the image that it is given")
    if not bool(torch.isfinite(gradient).all()):
        raise NonFinite("the gradient of the loss with respect to the image holds NaN or infinite values")
    if not bool(gradient.any()):
        raise NotDifferentiable(
            "the gradient of the loss is zero everywhere: a rounding, a comparison or an argmax lies between image and "
            "loss; replace it by a smooth function"
        )
