"""What is inverted, from what, and on what it is judged: fixed before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Training pairs, four of which make a step: objects of every category on every kind of background.
TRAIN_PROMPTS = (
    "cat on white background",
    "rocket on blue background",
    "mushroom on gray background",
    "cake on green stripes",
    "owl on yellow background",
    "apple on black background",
    "bus on pink background",
    "cactus on orange background",
    "crown on purple checks",
    "turtle on red background",
    "doughnut on white background",
    "drum on gray dots",
    "tulip on white pink gradient",
    "shark on green background",
    "key on yellow blue gradient",
    "tomato on white background",
)
TRAIN_SEEDS = tuple(range(11, 11 + len(TRAIN_PROMPTS)))
PAIRS_PER_STEP = 4

# Unseen objects; every prompt with every noise.
TEST_PROMPTS = (
    "fox on white background",
    "penguin on yellow background",
    "rose on gray background",
    "pineapple on blue background",
    "hamburger on white background",
    "car on pink background",
    "guitar on orange stripes",
    "bell on purple background",
    "robot on green background",
    "house on white blue gradient",
)
TEST_SEEDS = (101, 102, 103, 104)

STEPS, GUIDANCE, EPOCHS, ROWS = 10, 3.0, 50, 8


@dataclass(frozen=True)
class Effect:
    """`effect` with `options` names a built-in one; `words` put around the prompt are a style instead.

    `named` says whether the model's vocabulary has a word for it.
    """

    name: str
    title: str
    named: bool
    effect: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    words: str | None = None

    def target(self) -> dict[str, Any]:
        """The fields of `InvertConfig` that describe it."""
        if self.words is not None:
            return {"target_words": self.words}
        return {"effect": self.effect, "effect_options": dict(self.options)}


EFFECTS = (
    Effect("duotone", "Duotone, purple to yellow", False, "duotone"),
    Effect("color_grade", "Colour grade, teal to orange", False, "color_grade"),
    Effect("blue_hour", "Blue hour, dark and blue", False, "blue_hour"),
    Effect("sepia", "Sepia", True, "sepia"),
    Effect("black_and_white", "Black and white", True, "black_and_white"),
    Effect("relight", "Light from the left", True, "relight", (("side", "left"),)),
    Effect("style_3d", "3D style, from its word", True, words="3d {prompt}"),
)


@dataclass(frozen=True)
class Plan:
    """How much of it is run."""

    effects: tuple[Effect, ...] = EFFECTS
    epochs: int = EPOCHS
    test_prompts: tuple[str, ...] = TEST_PROMPTS
    test_seeds: tuple[int, ...] = TEST_SEEDS
    test_batch: int = 20
    steps: int = STEPS


def quick_plan() -> Plan:
    """Two effects, eight steps, four test images: shows that everything runs, measures nothing worth citing."""
    chosen = tuple(effect for effect in EFFECTS if effect.name in ("duotone", "style_3d"))
    return Plan(chosen, 8, TEST_PROMPTS[:2], TEST_SEEDS[:2])
