"""A guess of the picture that is asked for, made without the model, and blended into the starting noise.

The guess is a collage with the object in the box (or in that around the mask), a given part laid over the picture, or a
small picture enlarged.  At the first step the network sees noise with a trace of the picture in it, and has learnt to
read the trace: more of it than there ever was in training says loudly where things are.  SDEdit (Meng et al. 2022,
arXiv:2108.01073) starts later from a noised guess; here all steps are left to the sampler, so that the result is an
image of the model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.pipelines.autoencode import encode
from adjointdpm.tasks.guide import objectives as ask
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.grid import as_grid, laid_out_as
from adjointdpm.tasks.guide.inputs import read_small
from adjointdpm.tasks.guide.saliency import Border, Saliency
from adjointdpm.tasks.guide.terms import kept_part, place_of
from adjointdpm.tasks.guide.typicality import on_shell
from adjointdpm.tasks.painter import Painter

__all__ = ["Guess", "blended", "check_blend", "guess_of"]

Guess = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> latents of the guesses, laid out as noise


def check_blend(config: GuideConfig, painter: Painter, size: tuple[int, int]) -> None:
    """Raise `InvalidInput` if `config.blend` asks for a guess of images of `size` (H, W), or leaves it open, and no
    wish says what the picture looks like, or this pipeline has no latents for one.
    """
    if config.blend == ():
        return
    if all(getattr(config, name) is None for name in ("box", "mask", "image", "low_resolution")):
        raise InvalidInput("blend needs a wish that says what the picture looks like: box, mask, image, low_resolution")
    _latents(painter, torch.full((1, 3, *size), 0.5))


@torch.no_grad()
def _latents(painter: Painter, picture: Tensor) -> Tensor:
    """Of pictures (B, 3, H, W), laid out as the noise is."""
    noise = painter.noise([0])  # for its shape and device
    latents: Tensor = encode(painter.generator.pipe, picture.clamp(0, 1).to(noise.device)).float()
    wanted = as_grid(noise).shape[1:]
    if latents.shape[1:] != wanted:
        raise InvalidInput(
            f"blend: the noise has shape {tuple(wanted)} and an encoded image {tuple(latents.shape[1:])}; this "
            "pipeline's noise has a layout of its own: leave blend out"
        )
    return laid_out_as(noise, latents)


def guess_of(config: GuideConfig, painter: Painter, saliency: Saliency, size: tuple[int, int]) -> Guess | None:
    """How to guess from images of `size` (H, W); None if nothing is blended."""
    if not config.blend:
        return None
    part = kept_part(config, size) if config.image is not None else None
    small = read_small(config.low_resolution, size) if config.low_resolution is not None else None
    place = place_of(config, size)

    @torch.no_grad()
    def guess(images: Tensor) -> Tensor:
        picture = images
        if place is not None:
            picture, _ = ask.collage(images, saliency(images), Border().background(images), place)
        if small is not None:
            large = F.interpolate(small.to(images), size=size, mode="bilinear", align_corners=False)
            picture = large.expand_as(images)
        if part is not None:
            reference, keep = (value.to(images) for value in part)
            picture = keep * reference + (1 - keep) * picture
        return _latents(painter, picture)

    return guess


def blended(noise: Tensor, latents: Tensor, amount: float) -> Tensor:
    """noise + amount * latents, at the length of the noise; both in one layout."""
    return on_shell(noise + amount * latents.to(noise), noise)
