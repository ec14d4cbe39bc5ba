"""What is asked, of which prompts and noises, and what counts as reached: fixed before anything was measured.

The settings of the method and of its rivals were chosen on other prompts, noises and boxes (`TUNED_ON`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

STEPS, GUIDANCE = 10, 3.0
UPDATES = 40
ONE_SEED, SEEDS, MORE_SEEDS = (11,), (11, 12), (11, 12, 13, 14)
RIVAL_SEED = 50_000  # first seed of repeated sampling and of universal guidance
RECURRENCE, RATE = 6, 0.5  # of universal guidance
#: Fields of `GuideConfig` in all questions; phrases are tried by everybody.
METHOD: dict[str, object] = {
    "optimise": "both",
    "lr": 0.1,
    "embedding_lr": 0.06,
    "recogniser": "embedded",
    "weights": {"recogniser": 0.3},
}
CANDIDATES, BLEND = 6, (0.4, 0.8)
TUNED_ON = ("pear", "bell", "tomato", "koala", "drum", "balloon")

# The answers that are sought.
MEDIAN_IOU, RECOGNISED = 0.6, 0.8

BOX_WORDS = ("{prompt}", "{prompt} at left", "{prompt} at right", "{prompt} at top", "{prompt} at bottom")
CORNER_WORDS = {  # the words of both sides, one at a time, together, and none
    "top left": ("{prompt}", "{prompt} at left", "{prompt} at top", "{prompt} at top at left"),
    "top right": ("{prompt}", "{prompt} at right", "{prompt} at top", "{prompt} at top at right"),
    "bottom left": ("{prompt}", "{prompt} at left", "{prompt} at bottom", "{prompt} at bottom at left"),
    "bottom right": ("{prompt}", "{prompt} at right", "{prompt} at bottom", "{prompt} at bottom at right"),
}


@dataclass(frozen=True)
class Question:
    """One wish, asked of every prompt with every noise.

    wish: fields of `GuideConfig`; a value "material:NAME" is the file of that name that `material.py` draws.
    measure: how an image is judged, see `measure.py`.
    phrases: what repeated sampling may say.
    """

    name: str
    group: str
    title: str
    wish: tuple[tuple[str, object], ...]
    prompts: tuple[str, ...]
    measure: str
    phrases: tuple[str, ...] = ("{prompt}",)
    seeds: tuple[int, ...] = SEEDS


def _box(name: str, title: str, box: tuple[float, ...], corner: str, *prompts: str) -> Question:
    return Question(name, "box", title, (("box", box),), prompts, "iou", CORNER_WORDS[corner])


# The model was taught objects of 32 and 48 pixels in the middle or at the middle of a side, moved by 8 pixels or not;
# two words together put them into a corner.  A small object covers about 26 pixels.  The middle of each box lies
# between all of these places.  Objects whose drawings are nearly square, so that they can fit a square box.
BOXES = (
    _box(
        "top_left", "25 pixels, off the top left corner", (6, 8, 31, 33), "top left",
        "small flat fox on blue background", "small 3d basketball on green background",
    ),
    _box(
        "bottom_right", "25 pixels, off the bottom right corner", (32, 33, 57, 58), "bottom right",
        "small shaded pumpkin on white background", "small 3d robot on yellow background",
    ),
    _box(
        "top_right", "26 pixels, off the top right corner", (32, 6, 58, 32), "top right",
        "small flat ladybug on yellow background", "small shaded star on purple background",
    ),
    _box(
        "bottom_left", "26 pixels, off the bottom left corner", (8, 31, 34, 57), "bottom left",
        "small flat house on pink background", "small 3d cookie on gray background",
    ),
    _box(
        "lower_left", "24 pixels, a little below the left", (6, 26, 30, 50), "bottom left",
        "small shaded octopus on yellow background", "small flat heart on green background",
    ),
    _box(
        "upper_right", "25 pixels, a little above the right", (34, 14, 59, 39), "top right",
        "small 3d gift on white background", "small shaded bear on blue background",
    ),
)  # fmt: skip

KEPT = (
    Question(
        "keep_half", "keep", "The left half kept",
        (("image", "material:reference"), ("keep_box", (0, 0, 32, 64))),
        ("3d panda on green background", "flat castle on orange background"), "psnr", seeds=ONE_SEED,
    ),
    Question(
        "keep_frame", "keep", "All but the middle kept",
        (("image", "material:reference"), ("keep", "material:frame")),
        ("shaded lion on pink background", "3d soccer on blue background"), "psnr", seeds=ONE_SEED,
    ),
)  # fmt: skip

WISHES = (
    Question(
        "mask", "wish", "In a disc at the lower right", (("mask", "material:disc"),),
        ("small 3d cookie on blue background", "small flat sun on purple background"), "outline",
        CORNER_WORDS["bottom right"], ONE_SEED,
    ),
    Question(
        "size", "wish", "12 % of the picture", (("size", 0.12),),
        ("3d gift on white background", "flat frog on yellow background"), "size",
        ("{prompt}", "small {prompt}", "large {prompt}"), ONE_SEED,
    ),
    Question(
        "color", "wish", "In teal", (("color", "#18a0a0"),),
        ("flat star on white background", "3d headphones on gray background"), "color",
        ("{prompt}", "{prompt} cool", "{prompt} greenish", "{prompt} filtered"), ONE_SEED,
    ),
    Question(
        "symmetry", "wish", "Symmetric", (("symmetry", "left-right"),),
        ("flat wolf on green background", "shaded ghost on purple background"), "symmetry",
        seeds=ONE_SEED,
    ),
    Question(
        "sketch", "wish", "Along a sketch of a circle", (("sketch", "material:circle"),),
        ("3d basketball on white background", "flat clown on blue background"), "sketch", BOX_WORDS, ONE_SEED,
    ),
    Question(
        "low_resolution", "wish", "Like a picture of 8 × 8 pixels", (("low_resolution", "material:small"),),
        ("flat tiger on orange background", "3d house on gray background"), "low_resolution", BOX_WORDS, ONE_SEED,
    ),
)  # fmt: skip

QUESTIONS = (*BOXES, *KEPT, *WISHES)


@dataclass(frozen=True)
class Plan:
    """How much of it is run."""

    questions: tuple[Question, ...] = QUESTIONS
    updates: int = UPDATES
    steps: int = STEPS
    recurrence: int = RECURRENCE
    candidates: int = CANDIDATES


def full_plan() -> Plan:
    """Four noises a prompt."""
    return Plan(tuple(replace(question, seeds=MORE_SEEDS) for question in QUESTIONS))


def tiny_plan() -> Plan:
    """Two questions, two updates, one noise: shows that everything runs, measures nothing worth citing."""
    chosen = (BOXES[0], KEPT[1], WISHES[0])
    return Plan(tuple(replace(q, seeds=SEEDS[:1], prompts=q.prompts[:1]) for q in chosen), 2, 2, 2, 1)
