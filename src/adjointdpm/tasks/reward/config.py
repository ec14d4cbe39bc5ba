"""The settings of a reward run, validated before any work."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from adjointdpm.losses.rewards import Term, read_term
from adjointdpm.tasks.loop import LoopSettings, Schedule
from adjointdpm.tasks.settings import Positive, Seed, TaskConfig

__all__ = ["FRESH_SEEDS", "NO_REWARD", "Item", "RewardConfig"]

NO_REWARD = "none"
FRESH_SEEDS = (2**40, 2**62)  # those of fresh noises, out of the way of the ones that people give
PLAIN_NOUNS = ("cat", "rocket", "mushroom", "house")
UNSEEN_NOUNS = ("apple", "guitar", "penguin", "rose")
#: Steps of the optimiser, learning rate and weight of `typicality`, by what is optimised.
EPOCHS = {"noise": 30, "embedding": 40, "weights": 60}
RATES = {"noise": 0.03, "embedding": 0.1, "token": 0.02, "weights": 3e-4}
#: Defaults of TRL's AlignPropConfig (version 0.9 to its removal), which also drew noise between the steps.
ALIGNPROP: Mapping[str, Any] = {
    "optimise": "weights",
    "gradient": "random_truncation",
    "steps": 50,
    "guidance_scale": 5.0,
    "epochs": 100,
    "lr": 1e-3,
    "lr_schedule": "constant",
    "weight_decay": 1e-4,
    "clip_norm": 1.0,
}
RANK = 4  # likewise, of its LoRA
TYPICALITY_WEIGHTS = {"none": 0.0, "norm": 0.01, "concentration": 0.01}


@dataclass(frozen=True)
class Item:
    """One image of a step: `place` is that of its pair among all pairs."""

    place: int
    prompt: str
    seed: int


class RewardConfig(TaskConfig):
    """What is to score high, and what may change for it.

    Every prompt goes with every seed.  `optimise`: "noise" changes each image's x_T alone; "embedding" learns rows of
    text that serve any prompt; "weights" fine-tunes the denoiser.  A reward is written `[WEIGHT*]NAME[=ARGUMENT]` (see
    `losses.rewards`), higher is better, and several are summed.  `held_out` is a reward of the same form that is never
    optimised: if the optimised ones rise while it falls, the run says so.
    """

    FREE: ClassVar[frozenset[str]] = frozenset({"unseen_prompts", "unseen_seeds"})  # what the report shows besides

    preset: Literal["alignprop"] | None = Field(  # type: ignore[assignment]  # the paper has no rewards
        default=None, description="Settings of TRL's AlignPropTrainer where nothing else is given."
    )
    prompts: tuple[str, ...] = Field(default=PLAIN_NOUNS, min_length=1, description="What is painted.")
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1, description="Seeds of the noises; each with all.")
    rewards: tuple[str, ...] = Field(
        default=("colourfulness",), min_length=1, description="Rewards, [WEIGHT*]NAME[=ARGUMENT]."
    )
    held_out: str | None = Field(
        default=None, description="A reward that only watches; None: the judge where it fits; 'none': nothing."
    )
    optimise: Literal["noise", "embedding", "weights"] = Field(default="noise", description="What is optimised.")
    gradient: Literal["exact", "full", "truncated", "random_truncation", "one_step"] | None = Field(
        default=None, description="None: the generator's own."
    )
    last_k: int = Field(default=1, ge=1, description="Steps that are differentiated (truncated).")
    noises: Literal["fixed", "fresh"] | None = Field(
        default=None, description="Noises of the steps: those of the seeds, or new ones; fresh for weights."
    )
    typicality: Literal["none", "norm", "concentration"] = Field(
        default="concentration", description="What keeps an optimised noise one that could have been drawn."
    )
    typicality_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Weight of that penalty; its default depends on its kind."
    )
    space: Literal["prompt", "token"] = Field(default="prompt", description="Embedding: rows of text, or a new token.")
    variant: Literal["tail", "fill"] = Field(default="tail", description="Rows: the last ones, or all that are left.")
    rows: int | None = Field(default=None, ge=1, description="How many rows; 8 at the tail.")
    token: str = Field(default="<reward>", min_length=1, description="Name of the new token.")
    vectors: int = Field(default=1, ge=1, le=75, description="Vectors of the new token.")
    init_word: str | None = Field(default=None, description="Word whose embedding the token starts from.")
    train: Literal["lora", "cross-attention", "all"] = Field(default="lora", description="Which weights.")
    rank: int = Field(default=8, ge=1, description="Rank of the LoRA.")
    alpha: Positive | None = Field(default=None, description="Scale of the LoRA; None: its rank.")
    init_seed: Seed = Field(default=0, description="Seed of the LoRA's first values and of all that is drawn.")
    epochs: int | None = Field(default=None, ge=1, description="AdamW steps; 30 (noise), 40 (embedding), 60 (weights).")
    pairs_per_step: int | None = Field(default=None, ge=1, description="Pairs in each step, in turn; None: all.")
    lr: Positive | None = Field(
        default=None, description="Learning rate; 0.03 (noise), 0.1 (rows), 0.02 (token), 0.0003 (weights)."
    )
    lr_schedule: Schedule = Field(default="linear", description="Fall of the learning rate over the steps.")
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False, description="Of AdamW.")] = 0.0
    clip_norm: Positive | None = Field(default=None, description="Largest norm of the gradient; None: no limit.")
    patience: int | None = Field(default=None, ge=1, description="Stop after so many steps without a better one.")
    unseen_prompts: tuple[str, ...] | None = Field(
        default=None, description="For the report of an embedding or of weights; None: a few plain nouns."
    )
    unseen_seeds: tuple[Seed, ...] = Field(
        default=(1000, 1001), min_length=1, description="Noises for the report, never learnt on."
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("preset") == "alignprop":
            lora = data.get("optimise", "weights") == "weights" and data.get("train", "lora") == "lora"
            rank = {"rank": RANK} if lora else {}
            return {**ALIGNPROP, **rank, **data}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(not prompt.strip() for prompt in (*self.prompts, *(self.unseen_prompts or ()))):
            raise ValueError("a prompt is empty: say what to paint")
        for given in (self.prompts, self.seeds, self.unseen_prompts or (), self.unseen_seeds):
            if len(set(given)) < len(given):
                raise ValueError("a prompt or a seed is given twice: every prompt is painted from every seed once")
        names = [term.reward for term in self.terms]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"`rewards`: {twice!r} is given twice; add up its weights")
        if self.watched is not None and self.watched.reward in names:
            raise ValueError(f"held_out: {self.watched.reward!r} is optimised too, so it cannot judge")
        if self.pairs_per_step is not None and self.pairs_per_step > len(self.pairs):
            raise ValueError(f"pairs_per_step={self.pairs_per_step}, but there are {len(self.pairs)} pairs")
        if any(character.isspace() for character in self.token):
            raise ValueError(f"the token {self.token!r} must be one word without spaces, such as '<reward>'")
        self._refuse_idle()
        if not self.fresh:
            self.refuse_seen(self.pairs, self.unseen)
        if self.optimise == "noise":
            if self.gradient in ("truncated", "random_truncation"):
                raise ValueError(
                    f"`gradient`={self.gradient!r} leaves out the first steps, so the gradient to the noise is zero; "
                    "use 'exact', or 'one_step' for a cheap and biased one"
                )
            if self.noises == "fresh":
                raise ValueError("`noises`='fresh' cannot go with `optimise`='noise', which changes these very noises")
            if self.pairs_per_step is not None:
                raise ValueError("pairs_per_step is for what all images share; each noise is changed at every step")
        return self

    def _refuse_idle(self) -> None:
        """Raise for settings of what is not optimised."""
        of_rows, of_token = ("variant", "rows"), ("token", "vectors", "init_word")
        if self.optimise != "noise":
            self.refuse_idle(f"with `optimise`={self.optimise!r}, only with 'noise'", "typicality", "typicality_weight")
        if self.optimise != "embedding":
            why = f"with `optimise`={self.optimise!r}, only with 'embedding'"
            self.refuse_idle(why, "space", *of_rows, *of_token)
        else:
            self.refuse_idle(f"with `space`={self.space!r}", *(of_token if self.space == "prompt" else of_rows))
        if self.optimise != "weights":
            self.refuse_idle(f"with `optimise`={self.optimise!r}, only with 'weights'", "train", "rank", "alpha")
        elif self.train != "lora":
            self.refuse_idle(f"with `train`={self.train!r}, only with 'lora'", "rank", "alpha")
        if self.gradient != "truncated":
            self.refuse_idle("unless `gradient` is 'truncated'", "last_k")

    @property
    def terms(self) -> tuple[Term, ...]:
        return tuple(read_term(text) for text in self.rewards)

    @property
    def watched(self) -> Term | None:
        """The held-out reward that is named, or None."""
        return None if self.held_out is None or self.held_out == NO_REWARD else read_term(self.held_out)

    @property
    def pairs(self) -> tuple[tuple[str, int], ...]:
        """(prompt, seed) of each image: every prompt with every seed."""
        return tuple((prompt, seed) for prompt in self.prompts for seed in self.seeds)

    @property
    def unseen(self) -> tuple[tuple[str, int], ...]:
        """(prompt, seed) of images that nothing is learnt from; none for noises, which serve no other image."""
        if self.optimise == "noise":
            return ()
        prompts = self.unseen_prompts
        if prompts is None:
            prompts = tuple(noun for noun in UNSEEN_NOUNS if not any(noun in prompt.lower() for prompt in self.prompts))
        return tuple((prompt, seed) for prompt in prompts for seed in self.unseen_seeds)

    @property
    def fresh(self) -> bool:
        """Whether each step draws noises of its own."""
        return (self.noises or ("fresh" if self.optimise == "weights" else "fixed")) == "fresh"

    @property
    def penalty(self) -> float:
        """The weight of `typicality`."""
        if self.optimise != "noise":
            return 0.0
        return TYPICALITY_WEIGHTS[self.typicality] if self.typicality_weight is None else self.typicality_weight

    def items(self, step: int) -> list[Item]:
        """The images of step 1 …: all pairs, or the next few of an order that is drawn anew once all had their turn.

        They follow from the step alone, so that a resumed run, and every process of several, draws the same.
        """
        count = len(self.pairs)
        few = self.pairs_per_step or count
        places = [self._place(turn, count) for turn in range((step - 1) * few, step * few)]
        found = []
        for k, place in enumerate(sorted(places)):
            prompt, seed = self.pairs[place]
            if self.fresh:
                seed = random.Random(f"{self.init_seed}:noise:{step}:{k}").randrange(*FRESH_SEEDS)
            found.append(Item(place, prompt, seed))
        return found

    def _place(self, turn: int, count: int) -> int:
        order = random.Random(f"{self.init_seed}:{turn // count}").sample(range(count), count)
        return order[turn % count]

    def last_steps(self, step: int) -> int:
        """How many steps of the sampler are differentiated in step 1 … of a truncated gradient."""
        if self.gradient == "random_truncation":
            return random.Random(f"{self.init_seed}:truncation:{step}").randint(1, self.steps)
        return self.last_k

    def loop_settings(self) -> LoopSettings:
        space = "token" if self.optimise == "embedding" and self.space == "token" else self.optimise
        return LoopSettings(
            self.epochs or EPOCHS[self.optimise],
            self.lr or RATES[space],
            self.lr_schedule,
            self.weight_decay,
            self.checkpoint_every,
            patience=self.patience,
            clip_norm=self.clip_norm,
        )

    def identity(self) -> dict[str, Any]:
        facts = super().identity()
        return facts | {"epochs": self.epochs or EPOCHS[self.optimise]}
