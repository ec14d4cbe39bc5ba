"""The settings of a guidance run, validated before any work."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from adjointdpm.tasks.guide.objectives import SYMMETRIES
from adjointdpm.tasks.loop import LoopSettings, Schedule
from adjointdpm.tasks.settings import Positive, TaskConfig, quoted

__all__ = ["OBJECTIVES", "WEIGHTS", "GuideConfig"]

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**62)]
Box = tuple[Finite, Finite, Finite, Finite]

#: The wishes that a run can have; at least one is needed.
OBJECTIVES = ("box", "mask", "size", "color", "symmetry", "image", "sketch", "low_resolution", "objective")
#: Weights of the terms where none are given; their losses are of different kinds, and these make them weigh alike.
WEIGHTS: Mapping[str, float] = {
    "box": 1.0,
    "mask": 1.0,
    "collage": 2.0,
    "size": 1.0,
    "color": 20.0,
    "symmetry": 20.0,
    "image": 50.0,
    "sketch": 1.0,
    "low_resolution": 50.0,
    "objective": 1.0,
    "recogniser": 0.3,
}


class GuideConfig(TaskConfig):
    """What the image shall satisfy, and how its noise is optimised for that.

    Every prompt is painted from every seed.  Boxes are (left, top, right, bottom) in pixels.  Masks are black and white
    pictures in the size of the image, white where they hold.
    """

    prompts: tuple[str, ...] = Field(min_length=1, description="What to paint.")
    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2, 3), min_length=1, description="Seeds of the starting noises.")
    box: Box | None = Field(default=None, description="The object's bounding box: left, top, right, bottom.")
    mask: Path | None = Field(default=None, description="The object's outline: black and white picture.")
    size: float | None = Field(default=None, gt=0, lt=1, description="Share of the picture that the object covers.")
    color: str | None = Field(default=None, description="The object's mean colour, such as '#d02020' or 'red'.")
    symmetry: str | None = Field(default=None, description=f"One of {', '.join(SYMMETRIES)}.")
    image: Path | None = Field(default=None, description="Picture of which `keep` or `keep_box` stays as it is.")
    keep: Path | None = Field(default=None, description="Mask of what stays of `image`.")
    keep_box: Box | None = Field(default=None, description="What stays of `image`, as a box.")
    sketch: Path | None = Field(default=None, description="Line drawing that the picture's edges follow.")
    sketch_blur: Positive = Field(default=1.0, description="How far a line may be missed, in pixels.")
    low_resolution: Path | None = Field(default=None, description="Small picture that the image, made small, equals.")
    objective: str | None = Field(
        default=None, description="module:function of images (B, 3, H, W), or of images and prompts: losses (B,)."
    )
    weights: dict[str, NotNegative] = Field(default_factory=dict, description="Weights of terms by name.")
    saliency: str = Field(default="border", description="The object's soft mask: border, features, module:function.")
    recogniser: str | None = Field(
        default=None,
        description="embedded (the embedded model's classifier), module:function of images and prompts: (B,), or none; "
        "None: embedded with that model, for prompts whose objects it knows.",
    )
    optimise: Literal["noise", "embedding", "both"] | None = Field(
        default=None,
        description="What is optimised; None: both, the noise along a sketch or where no changed row is painted.",
    )
    candidates: int = Field(default=6, ge=1, description="Starting noises tried for each seed; the best is optimised.")
    starts: int = Field(
        default=1, ge=1, description="Best candidates of each seed that are optimised side by side; the best is kept."
    )
    phrases: tuple[str, ...] | None = Field(
        default=None,
        description="Wordings that candidates take turns with, such as '{prompt} at left', beside the prompt as it is; "
        "None: the embedded model's own words for the place that is asked for.",
    )
    move_noise: bool = Field(default=True, description="Try each noise moved to the place that is asked for, too.")
    blend: tuple[NotNegative, ...] | None = Field(
        default=None,
        description="Amounts of a guess of the picture that are blended into each noise and tried, too; 0: none; "
        "None: some where the wish says what the picture looks like and the pipeline can encode it.",
    )
    updates: int = Field(default=50, ge=1, description="AdamW steps.")
    lr: Positive = Field(default=0.1, description="Learning rate of the noise.")
    embedding_lr: Positive = Field(default=0.06, description="Learning rate of the embedding.")
    lr_schedule: Schedule | Literal["plateau"] = Field(
        default="plateau", description="Fall of the rate; plateau: halved for each image that gets no better for long."
    )
    plateau: int = Field(default=8, ge=1, description="Updates without a better loss after which that happens.")
    shell: bool = Field(default=True, description="Keep each noise at the length that it was drawn with.")
    typicality: NotNegative = Field(default=0.05, description="Weight of the penalty on untypical noise.")
    patience: int | None = Field(default=None, ge=1, description="Stop after so many steps without a better loss.")

    @field_validator("box", "keep_box")
    @classmethod
    def _area(cls, box: Box | None) -> Box | None:
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError("the box has no area: expected left < right and top < bottom, in pixels")
        return box

    @field_validator("phrases")
    @classmethod
    def _around_the_prompt(cls, phrases: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for phrase in phrases or ():
            if "{prompt}" not in phrase:
                raise ValueError(f"{phrase!r} does not hold {{prompt}}, the place of the prompt")
        return None if phrases is None else tuple(phrase for phrase in phrases if phrase != "{prompt}")

    @field_validator("blend")
    @classmethod
    def _none_of_it_is_nothing(cls, amounts: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return None if amounts is None else tuple(amount for amount in amounts if amount > 0)

    @field_validator("color")
    @classmethod
    def _known_color(cls, color: str | None) -> str | None:
        if color is not None:
            from PIL import ImageColor

            ImageColor.getrgb(color)  # raises a ValueError that names it
        return color

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, kind: str | None) -> str | None:
        if kind is not None and kind not in SYMMETRIES:
            raise ValueError(f"expected one of {', '.join(SYMMETRIES)}")
        return kind

    @field_validator("weights", mode="before")
    @classmethod
    def _known_weights(cls, weights: Any) -> Any:
        for name, value in weights.items() if isinstance(weights, Mapping) else ():
            if name not in WEIGHTS:
                raise ValueError(f"no term {name!r}; the terms are {', '.join(map(repr, WEIGHTS))}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < inf:
                raise ValueError(f"{name}={value}: expected a number, 0 or more (0 leaves the term out)")
        return weights

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.wishes:
            raise ValueError(f"nothing is asked of the image: give at least one of {quoted(OBJECTIVES)}")
        if any(not prompt.strip() for prompt in self.prompts):
            raise ValueError("a prompt is empty: say what to paint")
        if len(set(self.prompts)) < len(self.prompts) or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a prompt or a seed is given twice: every prompt is painted from every seed once")
        if self.image is not None and (self.keep is None) == (self.keep_box is None):
            raise ValueError("`image` needs `keep` (a mask) or `keep_box`, and not both: which part of it stays?")
        if self.image is None and (self.keep is not None or self.keep_box is not None):
            raise ValueError("`keep` and `keep_box` say which part of `image` stays; no image is given")
        if self.box is not None and self.mask is not None:
            raise ValueError("`box` and `mask` both say where the object stands; give one of them")
        worded = len(self.phrases or ())
        if self.candidates <= worded:
            raise ValueError(
                f"`candidates` is {self.candidates}: expected at least {worded + 1}, one for the prompt as it is and "
                f"one for each of the {worded} phrases"
            )
        if self.starts > self.candidates:
            raise ValueError(f"`starts` is {self.starts}: expected at most the number of candidates, {self.candidates}")
        self._refuse_idle()
        if all(self.weight(name) == 0 for name in self.wishes):
            raise ValueError("every term that is asked for has weight 0")
        return self

    def _refuse_idle(self) -> None:
        """Raise for settings of what is not asked for.

        Not for those of what is not optimised: that may be the pipeline's choice, which the record of a run has.
        """
        idle = [name for name in self.weights if name in OBJECTIVES and name not in self.wishes]
        if idle:
            raise ValueError(f"`weights`: {idle[0]} has one, but nothing is asked of it")
        if self.sketch is None:
            self.refuse_idle("without `sketch`", "sketch_blur")
        if self.lr_schedule != "plateau":
            self.refuse_idle("unless `lr_schedule` is 'plateau'", "plateau")

    @property
    def wishes(self) -> tuple[str, ...]:
        """The objectives that are asked for."""
        return tuple(name for name in OBJECTIVES if getattr(self, name) is not None)

    @property
    def cases(self) -> tuple[tuple[str, int], ...]:
        """(prompt, seed) of each image."""
        return tuple((prompt, seed) for prompt in self.prompts for seed in self.seeds)

    def wording(self, prompt: str, candidate: int) -> str:
        """What candidate number `candidate` is painted with; number 0 is the prompt as it is."""
        wordings = ("{prompt}", *(self.phrases or ()))
        return wordings[candidate % len(wordings)].replace("{prompt}", prompt)

    def weight(self, term: str) -> float:
        return self.weights.get(term, WEIGHTS[term])

    def rgb(self) -> tuple[float, float, float]:
        """`color` as r, g, b in [0, 1]."""
        from PIL import ImageColor

        assert self.color is not None
        red, green, blue = ImageColor.getrgb(self.color)[:3]
        return red / 255, green / 255, blue / 255

    def loop_settings(self) -> LoopSettings:
        schedule = "constant" if self.lr_schedule == "plateau" else self.lr_schedule
        return LoopSettings(self.updates, self.lr, schedule, 0.0, self.checkpoint_every, patience=self.patience)

    @property
    def title(self) -> str:
        """The wishes in a few words."""
        words: dict[str, Any] = {
            "box": f"the object in the box ({', '.join(f'{v:g}' for v in self.box or ())})",
            "mask": "the object in the mask",
            "size": f"the object on {100 * (self.size or 0):.3g} % of the picture",
            "color": f"in the colour {self.color}",
            "symmetry": f"symmetric ({self.symmetry})",
            "image": "part of a given image kept",
            "sketch": "along a sketch",
            "low_resolution": "like a low-resolution image",
            "objective": f"by {(self.objective or '').rpartition(':')[2]}",
        }
        return ", ".join(words[name] for name in self.wishes)
