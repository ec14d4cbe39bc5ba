"""From the configuration to a list of terms: a weight, a loss, and a reading for people.

Files are read and checked once, against the size of the model's images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.losses.load import load_function
from adjointdpm.losses.users import blamed, handed
from adjointdpm.tasks.guide import objectives as ask
from adjointdpm.tasks.guide.config import Box, GuideConfig
from adjointdpm.tasks.guide.inputs import check_box, read_mask, read_reference, read_sketch, read_small
from adjointdpm.tasks.guide.saliency import Border, Saliency

__all__ = ["COLLAGE", "Seen", "Term", "build_terms", "collage_term", "kept_part", "place_of", "weigh"]

COLLAGE = "collage"


@dataclass(frozen=True)
class Seen:
    """Some of the run's images: pixels (B, 3, H, W), soft masks (B, H, W), prompts, and their numbers in the run."""

    image: Tensor
    mask: Tensor
    prompts: Sequence[str]
    cases: Sequence[int]


@dataclass(frozen=True)
class Term:
    """`loss` gives one number an image, (B,), 0 where the wish is met; `reading` the same in `unit`, None if only the
    loss can be read.  `higher` readings are better, or lower ones.
    """

    name: str
    weight: float
    loss: Callable[[Seen], Tensor]
    reading: Callable[[Seen], Tensor] | None = None
    label: str = ""
    unit: str = ""
    higher: bool = False


def weigh(terms: Sequence[Term], seen: Seen) -> Tensor:
    """The weighted sum of the losses, (B,)."""
    return torch.stack([term.weight * term.loss(seen) for term in terms]).sum(dim=0)


def build_terms(
    config: GuideConfig, size: tuple[int, int], classifier: Callable[[], Callable[[Tensor], object]]
) -> list[Term]:
    """The terms of weight above 0 for images of `size` (H, W), but for the collage, which needs images.

    Raises `InvalidInput` naming the file or the box that does not fit.
    """
    terms = [
        *_placement(config, size),
        *_look(config),
        *_references(config, size),
        *_functions(config, classifier),
    ]
    return [term for term in terms if term.weight > 0]


def place_of(config: GuideConfig, size: tuple[int, int]) -> Box | None:
    """The box that is asked for, or that around the mask, in images of `size` (H, W); None if no place is."""
    if config.mask is not None:
        left, top, right, bottom = ask.bounding_boxes(read_mask(config.mask, size)[None])[0].tolist()
        return left, top, right, bottom
    return config.box


def collage_term(config: GuideConfig, images: Tensor, saliency: Saliency) -> list[Term]:
    """With a box or a mask: likeness to a collage of `images` (N, 3, H, W), one of each case."""
    place = place_of(config, (images.shape[-2], images.shape[-1]))
    if place is None or config.weight(COLLAGE) == 0:
        return []
    with torch.no_grad():
        ground = Border().background(images)
        pasted, _ = ask.collage(images, saliency(images), ground, place)

    def loss(seen: Seen) -> Tensor:
        theirs, below = (value[list(seen.cases)].to(seen.image) for value in (pasted, ground))
        return ask.collage_loss(seen.image, Border().background(seen.image), theirs, below)

    def reading(seen: Seen) -> Tensor:
        return ask.psnr((seen.image - pasted[list(seen.cases)].to(seen.image)).square().mean(dim=(1, 2, 3)))

    label = "likeness to the object cut out and pasted where it shall be"
    return [Term(COLLAGE, config.weight(COLLAGE), loss, reading, label, "dB", higher=True)]


def _placement(config: GuideConfig, size: tuple[int, int]) -> list[Term]:
    terms = []
    if config.box is not None:
        box = config.box
        check_box(box, size, "box")
        terms.append(
            Term(
                "box",
                config.weight("box"),
                lambda seen: ask.box_loss(seen.mask, box),
                lambda seen: ask.box_iou(ask.bounding_boxes(seen.mask), box),
                "overlap of the object with the box",
                "IoU",
                higher=True,
            )
        )
    if config.mask is not None:
        wanted = read_mask(config.mask, size)
        terms.append(
            Term(
                "mask",
                config.weight("mask"),
                lambda seen: ask.mask_loss(seen.mask, wanted),
                lambda seen: ask.mask_iou(seen.mask, wanted),
                "overlap of the object with the mask",
                "IoU",
                higher=True,
            )
        )
    return terms


def _look(config: GuideConfig) -> list[Term]:
    terms = []
    if config.size is not None:
        share = config.size
        terms.append(
            Term(
                "size",
                config.weight("size"),
                lambda seen: ask.size_loss(seen.mask, share),
                lambda seen: 100 * ask.area(seen.mask),
                f"share of the picture (wanted: {100 * share:g} %)",
                "%",
            )
        )
    if config.color is not None:
        rgb = config.rgb()
        terms.append(
            Term(
                "color",
                config.weight("color"),
                lambda seen: ask.color_loss(seen.image, seen.mask, rgb),
                lambda seen: ask.color_difference(seen.image, seen.mask, rgb),
                f"difference of the object's colour from {config.color}",
                "levels of 255",
            )
        )
    if config.symmetry is not None:
        kind = config.symmetry
        terms.append(
            Term(
                "symmetry",
                config.weight("symmetry"),
                lambda seen: ask.symmetry_loss(seen.image, kind),
                lambda seen: ask.asymmetry(seen.image, kind),
                f"difference from the mirror image ({kind})",
                "levels of 255",
            )
        )
    return terms


def kept_part(config: GuideConfig, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The given image (1, 3, H, W) and what is kept of it (H, W)."""
    assert config.image is not None
    reference = read_reference(config.image, size)
    if config.keep is not None:
        return reference, read_mask(config.keep, size, "mask of what is kept")
    assert config.keep_box is not None
    check_box(config.keep_box, size, "box of what is kept")
    keep = ask.box_mask(config.keep_box, *size)
    if bool((keep == 1).all()):
        raise InvalidInput("keep_box is the whole image: nothing is left for the model to paint")
    return reference, keep


def _references(config: GuideConfig, size: tuple[int, int]) -> list[Term]:
    terms = []
    if config.image is not None:
        reference, keep = kept_part(config, size)
        terms.append(
            Term(
                "image",
                config.weight("image"),
                lambda seen: ask.region_loss(seen.image, reference, keep),
                lambda seen: ask.psnr(ask.region_loss(seen.image.clamp(0, 1), reference, keep)),
                "what is kept, against the given image",
                "dB",
                higher=True,
            )
        )
    if config.sketch is not None:
        lines, blur = ask.line_strength(read_sketch(config.sketch, size), config.sketch_blur), config.sketch_blur
        terms.append(
            Term(
                "sketch",
                config.weight("sketch"),
                lambda seen: ask.sketch_loss(seen.image, lines, blur),
                lambda seen: ask.sketch_agreement(seen.image, lines, blur),
                "edges on the sketch's lines",
                "cosine",
                higher=True,
            )
        )
    if config.low_resolution is not None:
        small = read_small(config.low_resolution, size)
        terms.append(
            Term(
                "low_resolution",
                config.weight("low_resolution"),
                lambda seen: ask.low_resolution_loss(seen.image, small),
                lambda seen: ask.psnr(ask.low_resolution_loss(seen.image.clamp(0, 1), small)),
                "likeness to the small image",
                "dB",
                higher=True,
            )
        )
    return terms


def _functions(config: GuideConfig, classifier: Callable[[], Callable[[Tensor], object]]) -> list[Term]:
    terms = []
    if config.objective is not None:
        terms.append(Term("objective", config.weight("objective"), _users(config.objective, "objective")))
    if config.recogniser == "embedded":
        from adjointdpm.tasks.guide.recogniser import EmbeddedRecogniser

        network = EmbeddedRecogniser(classifier(), config.prompts)
        terms.append(
            Term(
                "recogniser",
                config.weight("recogniser"),
                lambda seen: network.loss(seen.image, seen.prompts),
                lambda seen: 100 * network.probability(seen.image, seen.prompts),
                "the prompt's object, by the classifier",
                "%",
                higher=True,
            )
        )
    elif config.recogniser not in (None, "none"):
        terms.append(Term("recogniser", config.weight("recogniser"), _users(config.recogniser, "recogniser")))
    return terms


def _users(name: str, what: str) -> Callable[[Seen], Tensor]:
    """A function of the user's, of images or of images and prompts; one number an image, or one for all of them."""
    if ":" not in name:
        raise InvalidInput(f"no {what} {name!r}; expected 'module:function' or 'file.py:function'")
    function = load_function(name)
    who = f"the {what} {name!r}"
    arguments = handed(function, ("images", "prompts"), who)

    def loss(seen: Seen) -> Tensor:
        with blamed(who):
            value = function(*(seen.image, list(seen.prompts))[:arguments])
        count = len(seen.image)
        if not isinstance(value, Tensor) or value.shape not in ((count,), ()):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInput(f"{who} returned {got}; expected ({count},), one number an image, or ()")
        return value.expand(count)

    return loss
