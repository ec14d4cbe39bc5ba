"""A reward is tried before any long work: one finite score for each image, and a gradient that reaches the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.losses.rewards.terms import Reward
from adjointdpm.losses.users import blamed, trial

__all__ = ["check_reward", "check_scores"]


def check_scores(scores: object, count: int, name: str, step: int | None = None, differentiable: bool = True) -> Tensor:
    """`scores` as a tensor (B,) of `count` finite real numbers, with a graph if `differentiable`; (B, 1) is flattened.

    Raises `InvalidInput` (no tensor, not one number for each image), `NonFinite` or `NotDifferentiable`; the message
    names the reward, and the step if one is given.
    """
    who = f"the reward {name!r}"
    at = "" if step is None else f" at step {step}"
    if isinstance(scores, (int, float)) or (isinstance(scores, Tensor) and scores.dim() == 0 and count > 1):
        raise InvalidInput(
            f"{who} returned a single number for {count} images{at}; expected one score for each, shape ({count},): "
            "leave out .mean() or .item()"
        )
    if not isinstance(scores, Tensor):
        raise InvalidInput(f"{who} returned {type(scores).__name__}{at}; expected a tensor of shape ({count},)")
    if scores.shape not in ((count,), (count, 1), ()):
        raise InvalidInput(
            f"{who} returned shape {tuple(scores.shape)}{at}; expected one score for each image, shape ({count},)"
        )
    if not scores.is_floating_point():
        raise NotDifferentiable(f"{who} returned {scores.dtype}{at}: expected real floating-point scores")
    scores = scores.reshape(count)
    bad = (~torch.isfinite(scores.detach())).nonzero().flatten().tolist()
    if bad:
        raise NonFinite(f"{who} is {float(scores.detach()[bad[0]])} for image {bad[0] + 1} of {count}{at}")
    if differentiable and not scores.requires_grad:
        raise NotDifferentiable(
            f"{who} has no gradient{at}: it is constant, or detached from the images by .detach(), .item(), .numpy(), "
            "torch.no_grad() or a conversion to integers or PIL. As a held-out reward (--held-out) it needs none."
        )
    return scores


@trial()
def check_reward(reward: Reward, name: str, images: Tensor, prompts: Sequence[str]) -> None:
    """Try a reward on a copy of at least two images, slightly perturbed so that a flat picture is no special case.

    Raises `InvalidInput` where it fails or returns something else, and `NotDifferentiable` where the gradient to the
    images is missing, or zero everywhere (a constant reward, rounding, argmax, comparison).
    """
    if len(images) == 1:  # a mean over one image looks like its score
        images, prompts = images.expand(2, -1, -1, -1), [prompts[0]] * 2
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    probe = (0.9 * images.detach() + 0.1 * noise).requires_grad_()
    with torch.enable_grad():
        scores = check_scores(reward(probe, list(prompts)), len(probe), name)
        with blamed(f"the backward of the reward {name!r}"):
            (gradient,) = torch.autograd.grad(scores.sum(), probe, allow_unused=True)
    if gradient is None:
        raise NotDifferentiable(f"the reward {name!r} does not depend on the images that it is given")
    if not bool(torch.isfinite(gradient).all()):
        raise NonFinite(f"the gradient of the reward {name!r} to the images holds NaN or infinite values")
    if not bool(gradient.any()):
        raise NotDifferentiable(
            f"the gradient of the reward {name!r} to the images is zero everywhere: it is constant, or a rounding, a "
            "comparison or an argmax lies between images and scores; replace it by a smooth function"
        )
