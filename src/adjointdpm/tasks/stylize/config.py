"""The settings of a stylization, validated before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from adjointdpm.tasks.loop import LoopSettings, Schedule
from adjointdpm.tasks.settings import Positive, Seed, TaskConfig
from adjointdpm.zoo.lexicon import spoken

__all__ = ["AUTO", "NONE", "NOUNS", "StylizeConfig"]

AUTO, NONE = "auto", "none"
NOUNS = ("cat", "rocket", "mushroom", "cake", "owl", "car", "guitar", "house")
UNSEEN = ("fox", "apple", "robot", "umbrella")
RATES = {"lora": 2e-3, "cross-attention": 1e-4, "all": 5e-5}
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StylizeConfig(TaskConfig):
    """Which style, learnt on what, by which weights.

    Training pairs are every prompt with every seed.  One step of the optimiser takes `pairs_per_step` of them, in a
    random order that gives each its turn; `epochs` counts how often each has had it.
    """

    PAPER: ClassVar[Mapping[str, Any]] = {
        "prompts": (
            "An airplane", "A cat", "A truck", "A forest", "A house", "sunflowers", "A bottle", "A bed", "Apples",
            "A clock",
        ),
        "seeds": tuple(range(10)),
        "weights": "cross-attention",
        "features": "vgg19",
        "epochs": 8,
        "lr": 1e-4,
        "lr_schedule": "constant",
    }  # fmt: skip
    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            "validate_every",
            "validation_prompts",
            "validation_seeds",
            "unseen_prompts",
            "unseen_seeds",
            "measure",
            "show",
        }
    )

    style: Path = Field(description="The reference image.")
    style_scale: Positive = Field(default=1.0, description="Size of its texture; 2 makes strokes twice as wide.")
    prompts: tuple[str, ...] = Field(default=NOUNS, min_length=1, description="Prompts to learn on.")
    seeds: tuple[Seed, ...] = Field(default=(0, 1), min_length=1, description="Noises of each prompt.")
    weights: Literal["lora", "cross-attention", "all"] = Field(default="lora", description="What is fine-tuned.")
    rank: int = Field(default=8, ge=1, description="Rank of the LoRA.")
    alpha: Positive | None = Field(default=None, description="Scale of the LoRA; None: its rank.")
    init_seed: Seed = Field(default=0, description="Of the LoRA's first values.")
    features: str = Field(
        default=AUTO, description="Network of the losses: vgg19, efficientnet, classifier, module:function."
    )
    content_features: str | None = Field(default=None, description="Network of the content loss; None: the same.")
    style_layers: tuple[int, ...] | None = Field(default=None, min_length=1, description="None: all but the deepest.")
    content_layers: tuple[int, ...] | None = Field(default=None, min_length=1, description="None: the deepest but one.")
    style_weight: Weight = Field(default=1.0, description="w_s, of the style loss.")
    content_weight: Weight = Field(default=1.0, description="w_c, of the content loss.")
    epochs: int = Field(default=20, ge=1, description="How often each pair has its turn.")
    pairs_per_step: int = Field(default=4, ge=1, description="At most so many pairs in one AdamW step.")
    lr: Positive | None = Field(default=None, description="Learning rate; its default depends on the weights.")
    lr_schedule: Schedule = Field(default="cosine", description="Fall of the learning rate over the steps.")
    weight_decay: Weight = Field(default=0.01, description="Of AdamW.")
    clip_norm: Positive | None = Field(default=None, description="Longest gradient that a step may take.")
    patience: int | None = Field(default=None, ge=1, description="Steps without a new best loss before it stops.")
    validate_every: int = Field(default=20, ge=0, description="Steps between validation images; 0: none.")
    validation_prompts: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="None: a few plain nouns that are not learnt on."
    )
    validation_seeds: tuple[Seed, ...] = Field(default=(2000,), min_length=1, description="Noises of these images.")
    unseen_prompts: tuple[str, ...] | None = Field(default=None, description="None: a few plain nouns.")
    unseen_seeds: tuple[Seed, ...] = Field(
        default=(1000, 1001), min_length=1, description="Noises for the report, never learnt on."
    )
    measure: str = Field(
        default="judge", description=f"Network that only measures, never optimised against; {NONE!r}: there is none."
    )
    show: int = Field(default=8, ge=1, description="Images of each kind in the report.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.style_weight == 0:
            raise ValueError("style_weight is 0: there would be nothing to learn")
        if any(not prompt.strip() for prompt in self.prompts):
            raise ValueError("a prompt is empty")
        if self.measure in (self.features, self.content_features):
            raise ValueError(f"`measure` is {self.measure!r}, the network that is optimised: name another, or none")
        if self.weights != "lora":
            self.refuse_idle(f"with `weights`={self.weights!r}, only with 'lora'", "rank", "alpha", "init_seed")
        self.refuse_seen(self.pairs, [(p, s) for p in (*self.prompts, *self.unseen) for s in self.unseen_seeds])
        if self.content_weight == 0:
            self.refuse_idle("with a content_weight of 0", "content_features", "content_layers")
        return self

    @property
    def pairs(self) -> tuple[tuple[str, int], ...]:
        """(prompt, seed) of each training image."""
        return tuple((prompt, seed) for prompt in self.prompts for seed in self.seeds)

    @property
    def other_nouns(self) -> tuple[str, ...]:
        """Prompts that share no word with those learnt on."""
        known = {word for prompt in self.prompts for word in spoken(prompt)}
        return tuple(noun for noun in (*UNSEEN, *NOUNS) if noun not in known)[: len(UNSEEN)]

    @property
    def unseen(self) -> tuple[str, ...]:
        """Other prompts for the report."""
        return self.other_nouns if self.unseen_prompts is None else self.unseen_prompts

    @property
    def validation(self) -> tuple[tuple[str, int], ...]:
        """(prompt, seed) of the images that are drawn while it runs."""
        prompts = self.validation_prompts or self.other_nouns or self.prompts[:1]
        return tuple((prompt, seed) for prompt in prompts for seed in self.validation_seeds)

    @property
    def together(self) -> int:
        """Pairs in one step of the optimiser."""
        return min(self.pairs_per_step, len(self.pairs))

    @property
    def optimiser_steps(self) -> int:
        return math.ceil(self.epochs * len(self.pairs) / self.together)

    def loop_settings(self) -> LoopSettings:
        return LoopSettings(
            self.optimiser_steps,
            RATES[self.weights] if self.lr is None else self.lr,
            self.lr_schedule,
            self.weight_decay,
            self.checkpoint_every,
            patience=self.patience,
            clip_norm=self.clip_norm,
        )
