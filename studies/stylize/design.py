"""What is learnt from what, by which methods, and how it is judged: fixed before anything is measured.

Learning rates, weights of the losses and sizes were chosen on the two pilot styles alone (`styles/pilot_*.png`), which
are not among those measured; `studies/stylize/pilot.json` has what was tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLE_FOLDER = Path(__file__).parent / "styles"


@dataclass(frozen=True)
class Style:
    """A reference image, none of which the model has seen."""

    name: str
    title: str

    @property
    def file(self) -> Path:
        return STYLE_FOLDER / f"{self.name}.png"


STYLES = (
    Style("strokes", "Brush strokes, drawn by a program like a painting"),
    Style("weave", "A woven texture"),
    Style("openmoji", "A drawing of OpenMoji"),
    Style("package", "A picture by a style-transfer package"),
)

# Every prompt with every noise.
TRAIN_PROMPTS = (
    "cat on white background",
    "rocket on blue background",
    "mushroom on gray background",
    "cake on green stripes",
    "owl on yellow background",
    "bus on pink background",
    "cactus on orange background",
    "turtle on red background",
    "tulip on white pink gradient",
    "key on yellow blue gradient",
)
TRAIN_SEEDS = (11, 12)
# Objects and backgrounds that nothing was learnt on.
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
OTHER_SEEDS = (101, 102)  # of the training prompts, in the set of unseen noises

STEPS, GUIDANCE = 10, 3.0
FEATURES, MEASURED_BY, ALSO_BY = "vgg19", "efficientnet", "judge"
HALVED, KEPT = 0.5, 0.8  # targets: the distance's least drop, and the least share of objects still recognised

METHODS = {
    "ours": "stylize",
    "textual_inversion": "Textual Inversion",
    "dreambooth": "DreamBooth",
    "pixels": "neural style transfer",
}


@dataclass(frozen=True)
class Plan:
    """How much of it is run."""

    styles: tuple[Style, ...] = STYLES
    train_prompts: tuple[str, ...] = TRAIN_PROMPTS
    train_seeds: tuple[int, ...] = TRAIN_SEEDS
    test_prompts: tuple[str, ...] = TEST_PROMPTS
    test_seeds: tuple[int, ...] = TEST_SEEDS
    other_seeds: tuple[int, ...] = OTHER_SEEDS
    steps: int = STEPS
    epochs: int = 10
    batch: int = 20  # images painted at once
    token_rate: float = 0.02
    dreambooth_rate: float = 1e-4
    pixel_rate: float = 0.01
    changes: tuple[tuple[str, Any], ...] = ()  # of the settings of `stylize` below

    def sets(self) -> dict[str, list[tuple[str, int]]]:
        """(prompt, seed) of the images of each set, by title."""
        return {
            "training pairs": [(p, s) for p in self.train_prompts for s in self.train_seeds],
            "unseen noises": [(p, s) for p in self.train_prompts for s in self.other_seeds],
            "unseen prompts": [(p, s) for p in self.test_prompts for s in self.test_seeds],
        }

    def training(self) -> dict[str, Any]:
        """Fields of `StylizeConfig` that all styles share."""
        return {
            "prompts": self.train_prompts,
            "seeds": self.train_seeds,
            "steps": self.steps,
            "guidance_scale": GUIDANCE,
            "epochs": self.epochs,
            "features": FEATURES,
            **TRAINING,
            **dict(self.changes),
        }


TRAINING: dict[str, Any] = {
    "weights": "all",
    "lr": 6e-4,
    "content_weight": 5.0,
    "content_features": "classifier",  # the judge that says what is recognised is another network
    "content_layers": (-1,),
    "pairs_per_step": 4,
}
TOKEN_VECTORS, IDENTIFIER = 4, "bengiles"  # a word that the model does not know, as in the paper


def full_plan() -> Plan:
    """The paper's 10 × 10 pairs for 8 epochs, and ten noises for each test prompt."""
    return Plan(train_seeds=tuple(range(11, 21)), test_seeds=tuple(range(101, 111)), epochs=8)


def tiny_plan() -> Plan:
    """One style, seconds: shows that everything runs, measures nothing."""
    return Plan(STYLES[:1], TRAIN_PROMPTS[:2], TRAIN_SEEDS[:1], TEST_PROMPTS[:2], TEST_SEEDS[:1], OTHER_SEEDS[:1], 2, 2)
