"""Every term is tried once before any long work: one finite number an image, with a gradient to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.losses import check_value
from adjointdpm.losses.users import blamed, trial
from adjointdpm.tasks.guide.saliency import Saliency
from adjointdpm.tasks.guide.terms import Seen, Term

__all__ = ["check_terms"]


@trial()
def check_terms(terms: Sequence[Term], seen: Seen, saliency: Saliency) -> None:
    """Try the terms on an image that is slightly perturbed, so that a wish that is already met is no special case.

    Raises `InvalidInput` or `NotDifferentiable` naming the term.
    """
    noise = torch.rand(seen.image.shape, generator=torch.Generator().manual_seed(0)).to(seen.image)
    for term in terms:
        probe = (0.9 * seen.image.detach() + 0.1 * noise).requires_grad_()
        with torch.enable_grad():
            tried = replace(seen, image=probe, mask=saliency(probe))
            try:
                value = check_value(term.loss(tried).sum())
            except (InvalidInput, NotDifferentiable, NonFinite) as error:
                raise type(error)(f"the term {term.name!r}: {error}") from error
            with blamed(f"the backward of the term {term.name!r}"):
                (gradient,) = torch.autograd.grad(value, probe, allow_unused=True)
        if gradient is None or not bool(gradient.any()):
            raise NotDifferentiable(
                f"the gradient of the term {term.name!r} with respect to the image is zero: a constant, a rounding, a "
                "comparison or an argmax lies between image and loss"
            )
        if not bool(torch.isfinite(gradient).all()):
            raise NonFinite(f"the gradient of the term {term.name!r} holds NaN or infinite values")
