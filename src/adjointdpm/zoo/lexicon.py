"""The words of the embedded model: what a caption can say, frozen before the weights were trained.

A caption reads ``[size] [style] object [on background] [at position] [lit from side] [effects]``,
for example "small flat trophy on blue stripes at left lit from top sepia".  Every word is one
token.  The word `filtered` says that some nameless colour effect is present, never which one.
`spoken` splits a prompt into words as the tokenizer does; whoever looks for words in a prompt asks it.
"""

from __future__ import annotations

import re

from adjointdpm.zoo.objects import OBJECTS

STYLES = ("shaded", "flat", "3d")
SIZES = {"small": 32, "large": 48}  # extent in pixels of a 64-pixel image
POSITIONS = ("left", "right", "top", "bottom", "center")
LIGHTS = ("left", "right", "top")
COLORS: dict[str, tuple[float, float, float]] = {
    "white": (1.00, 1.00, 1.00),
    "black": (0.08, 0.08, 0.09),
    "gray": (0.62, 0.62, 0.64),
    "red": (0.88, 0.18, 0.20),
    "orange": (0.98, 0.58, 0.14),
    "yellow": (0.99, 0.86, 0.25),
    "green": (0.26, 0.70, 0.34),
    "blue": (0.22, 0.46, 0.90),
    "purple": (0.55, 0.30, 0.78),
    "pink": (0.98, 0.62, 0.76),
}
PATTERNS = ("stripes", "dots", "checks")
EFFECTS = (
    "grayscale",
    "sepia",
    "warm",
    "cool",
    "rosy",
    "greenish",
    "vivid",
    "faded",
    "dark",
    "bright",
    "blurred",
    "bokeh",
)
NAMELESS = "filtered"
GRAMMAR = ("on", "background", "gradient", "at", "lit", "from", "a", "an", "the", "and", "with", "of", "in")
PUNCTUATION = r"[,.;:!?\"()]"  # what the tokenizer takes for blanks
START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"


def words() -> tuple[str, ...]:
    """Every word that the tokenizer knows, in the order of its ids (after the three specials)."""
    groups = (OBJECTS, STYLES, SIZES, POSITIONS, COLORS, PATTERNS, EFFECTS, (NAMELESS,), GRAMMAR)
    return tuple(dict.fromkeys(word for group in groups for word in group))


def spoken(text: str) -> list[str]:
    """The words of a text as the tokenizer reads them: small letters, without punctuation, known or not."""
    return re.sub(PUNCTUATION, " ", text.lower()).split()


def objects_in(text: str) -> list[int]:
    """The numbers of the objects that a text names, in its order, each once."""
    names = list(OBJECTS)
    return [names.index(word) for word in dict.fromkeys(spoken(text)) if word in OBJECTS]
