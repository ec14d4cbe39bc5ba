"""The settings of an inversion, validated before any work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from adjointdpm.tasks.loop import LoopSettings, Schedule
from adjointdpm.tasks.settings import Positive, Seed, TaskConfig

__all__ = ["InvertConfig"]


class InvertConfig(TaskConfig):
    """What to invert, and how.

    Training pairs: `prompts` and `seeds` are paired one to one; a single one of either goes with all of the other.
    Exactly one target: `effect` (a built-in name or "module:function", applied to the image that the plain prompt
    gives), `target_images` (a file for each pair: the user's edits of those images), or `target_words` (words that the
    model knows, appended to the prompt, or with "{prompt}" in it, put around it; the same noise).
    """

    #: Paper A.1: rows of the base prompt fixed, all others learnt, MSE, AdamW with learning rate 0.1, 50 epochs.
    PAPER: ClassVar[Mapping[str, Any]] = {
        "space": "prompt",
        "variant": "fill",
        "loss": "mse",
        "epochs": 50,
        "lr": 0.1,
        "lr_schedule": "constant",
    }
    FREE: ClassVar[frozenset[str]] = frozenset({"unseen_prompts", "unseen_seeds"})  # what the report shows besides

    prompts: tuple[str, ...] = Field(min_length=1, description="Base prompts.")
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1, description="Seeds of the starting noises.")
    effect: str | None = Field(default=None, description="Built-in effect, or module:function on images (B, 3, H, W).")
    effect_options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the effect.")
    target_images: tuple[Path, ...] = Field(default=(), description="Edited images, one for each pair.")
    target_words: str | None = Field(default=None, description="Effect or style words that the model knows.")
    space: Literal["prompt", "token"] = Field(
        default="prompt", description="Rows after the text encoder, or a new token."
    )
    variant: Literal["tail", "fill"] = Field(
        default="tail", description="Last rows, or all that the prompt leaves (A.1)."
    )
    rows: int | None = Field(
        default=None, ge=1, description="Learnt rows; 8 at the tail, all remaining ones with fill."
    )
    token: str = Field(default="<effect>", min_length=1, description="Name of the new token (token space).")
    vectors: int = Field(default=1, ge=1, le=75, description="Vectors of the new token (token space).")
    init_word: str | None = Field(default=None, description="Word whose embedding the token starts from (token space).")
    loss: str = Field(default="mse", description="mse, perceptual, efficientnet, lpips, or module:function.")
    epochs: int = Field(default=50, ge=1, description="AdamW steps, each over all pairs or `pairs_per_step`.")
    pairs_per_step: int | None = Field(
        default=None, ge=1, description="Pairs in each AdamW step, taking turns; None: all."
    )
    lr: Positive | None = Field(default=None, description="Learning rate; 0.1 in prompt space, 0.02 in token space.")
    lr_schedule: Schedule = Field(default="linear", description="Fall of the learning rate over the steps.")
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False, description="Of AdamW.")] = 0.01
    unseen_prompts: tuple[str, ...] | None = Field(
        default=None, description="Shown in the report; None: a few plain nouns."
    )
    unseen_seeds: tuple[Seed, ...] = Field(
        default=(1000, 1001), min_length=1, description="Noises for the report, never learnt on."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        targets = [self.effect is not None, bool(self.target_images), self.target_words is not None]
        if sum(targets) != 1:
            raise ValueError(f"give exactly one of `effect`, `target_images` and `target_words`; got {sum(targets)}")
        if len(self.prompts) != len(self.seeds) and 1 not in (len(self.prompts), len(self.seeds)):
            raise ValueError(
                f"{len(self.prompts)} prompts and {len(self.seeds)} seeds cannot be paired: "
                "give as many of each, or one of either"
            )
        self.refuse_seen(self.pairs, [(p, s) for p in self.unseen_prompts or () for s in self.unseen_seeds])
        if self.pairs_per_step is not None and self.pairs_per_step > len(self.pairs):
            raise ValueError(f"pairs_per_step={self.pairs_per_step}, but there are {len(self.pairs)} pairs")
        if self.target_images and len(self.target_images) != len(self.pairs):
            raise ValueError(f"{len(self.target_images)} target images for {len(self.pairs)} pairs: give one for each")
        if self.effect_options and self.effect is None:
            raise ValueError("`effect_options` are for `effect`; none is given")
        if self.target_words is not None and not self.target_words.replace("{prompt}", "").strip():
            raise ValueError("target_words holds no word")
        if any(character.isspace() for character in self.token):
            raise ValueError(f"the token {self.token!r} must be one word without spaces, such as '<effect>'")
        return self

    @property
    def pairs(self) -> tuple[tuple[str, int], ...]:
        """(prompt, seed) of each training image."""
        count = max(len(self.prompts), len(self.seeds))
        prompts = self.prompts * count if len(self.prompts) == 1 else self.prompts
        seeds = self.seeds * count if len(self.seeds) == 1 else self.seeds
        return tuple(zip(prompts, seeds, strict=False))[:count]

    @property
    def target_name(self) -> str:
        """The target in a few words, for titles."""
        if self.effect is not None:
            return self.effect.rpartition(":")[2].replace("_", " ")
        if self.target_words is not None:
            return self.target_words.replace("{prompt}", "…").strip()
        return "edited image" if len(self.target_images) == 1 else "edited images"

    def loop_settings(self) -> LoopSettings:
        lr = self.lr if self.lr is not None else (0.1 if self.space == "prompt" else 0.02)
        return LoopSettings(self.epochs, lr, self.lr_schedule, self.weight_decay, self.checkpoint_every)

    def identity(self) -> dict[str, Any]:
        """What must agree on resume; the number format only where it is not the usual one, as in runs without it."""
        facts = super().identity()
        return facts if self.mixed_precision != "no" else {k: v for k, v in facts.items() if k != "mixed_precision"}
