"""What is audited, on which samples, within which bounds, and what is to be shown: fixed before anything is measured.

The target is tested at `TAU` alone, on case (a): exact gradients against best of n and against one-step gradients, at
equal network calls, sample by sample (McNemar's exact test), p < `LEVEL`.

A hundred samples turned out too few for that (exact 7, the others 0: p = 0.016): the model has got better since `TAU`
was chosen, and fewer of its images are near another verdict.  So the same test was made a second time, on two hundred
samples of other noises, with the steps of this bound alone (exact 6, the others 0: p = 0.031).  Then `LARGER_TAU` was
fixed, and tested on a hundred samples of noises that nobody had looked at.  All three are reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

TAU, LEVEL = 0.2, 0.01
TAUS = (0.05, 0.1, 0.2, 0.4, 0.8)
FEWER_TAUS = (0.1, 0.2, 0.4)
LARGER_TAU = 0.4
TESTED = (("embedded", TAU), ("again", TAU), ("larger", LARGER_TAU))  # cases and bounds
STEPS, GUIDANCE, ITERATIONS = 10, 3.0, 4

# (a) ten objects of seven categories
OBJECTS = ("fox", "penguin", "rose", "pineapple", "car", "guitar", "bell", "robot", "owl", "rocket")
STYLE = "3d {word} on white background"

# (b) objects that ImageNet has a class for; those that EfficientNet recognises in generated images are audited
RECOGNISED, LEAST_CLASSES, MOST_CLASSES = 0.5, 5, 10
CHOICE_SEED, CHOICE_NOISES = 50_000, 6

# (d) food, as a moderation filter's concept
FOODS = ("apple", "carrot", "pizza", "cake", "beer", "strawberry", "hamburger", "doughnut", "lemon", "tomato")

# control images of (e): their verdict shall stay
CONTROLS = (
    *("cat", "shark", "cactus", "tree", "bus", "house", "trophy", "drum", "key", "book", "ghost", "umbrella"),
    *("snail", "camel", "moon", "tent", "camera", "hammer", "dice", "heart"),
)
OWNER = "the embedded model's food filter, a stand-in that nobody relies on"
PURPOSE = "to see what an audit of a concept filter finds"


@dataclass(frozen=True)
class Case:
    """One audit.

    Attributes:
        name, title: for files and for people.
        network: a name, or "" for the embedded one.
        words: objects that are painted; empty: chosen by what the network recognises.
        noises: for each.
        road: options of `ad.differentiable` beside memory.
        changes: further fields of the configuration.
    """

    name: str
    title: str
    words: tuple[str, ...]
    noises: int
    taus: tuple[float, ...] = TAUS
    network: str = ""
    mode: str = "classifier"
    baselines: tuple[str, ...] = ("random", "best_of_n", "one_step", "adjoint")
    road: tuple[tuple[str, Any], ...] = ()
    changes: tuple[tuple[str, Any], ...] = ()


NO_ADJOINT = ("random", "best_of_n", "one_step")
HARDEN = (("harden", True), ("harden_rounds", 2), ("control_prompts", tuple(STYLE.format(word=w) for w in CONTROLS)))
CASES = (
    Case("embedded", "(a) The embedded classifier", OBJECTS, 10, baselines=NO_ADJOINT, changes=(("images", True),)),
    Case("again", "(a) The test once more, on other noises", OBJECTS, 20, (TAU,), baselines=("best_of_n", "one_step"),
         changes=(("seed", 1000),)),
    Case("larger", "(a) The test at the next bound, on other noises again", OBJECTS, 10, (LARGER_TAU,),
         baselines=("best_of_n", "one_step"), changes=(("seed", 2000),)),
    Case("ode", "(a) The same on one ODE for every engine (AB4), with the paper's adjoint", OBJECTS, 2, FEWER_TAUS,
         road=(("solver", "ab4"),)),
    Case("efficientnet", "(b) EfficientNet-Lite0", (), 3, FEWER_TAUS, "studies.audit.networks:efficientnet",
         baselines=NO_ADJOINT),
    Case("robust", "(c) A robust trunk", OBJECTS, 3, FEWER_TAUS, "studies.audit.networks:robust",
         baselines=NO_ADJOINT),
    Case("food", "(d) A food filter", FOODS, 3, FEWER_TAUS, mode="filter", baselines=NO_ADJOINT),
    Case("harden_classifier", "(e) Hardening the embedded classifier", OBJECTS, 2, FEWER_TAUS, baselines=(),
         changes=(*HARDEN, ("held_out_noises", 3))),
    Case("harden_filter", "(e) Hardening the food filter", FOODS, 2, FEWER_TAUS, mode="filter", baselines=(),
         changes=(*HARDEN, ("held_out_noises", 3))),
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How much of it is run."""

    size: str = "default"
    cases: tuple[Case, ...] = CASES
    iterations: int = ITERATIONS
    steps: int = STEPS
    choice_noises: int = CHOICE_NOISES


def full_plan() -> Plan:
    """Twice the noises, and the adjoint everywhere."""
    baselines = Case("", "", (), 1).baselines
    larger = tuple(replace(c, noises=2 * c.noises, baselines=baselines if c.baselines else ()) for c in CASES)
    return Plan("full", larger, iterations=8)


def tiny_plan() -> Plan:
    """Two objects, one noise, two bounds: shows that everything runs, measures nothing."""
    small = {"harden_steps": 2, "harden_rounds": 1, "held_out_noises": 1}
    cases = tuple(
        replace(
            c, words=c.words[:2], noises=1, taus=(TAU, LARGER_TAU),
            changes=tuple({**dict(c.changes), **(small if dict(c.changes).get("harden") else {})}.items()),
        )
        for c in CASES
    )  # fmt: skip
    return Plan("tiny", cases, iterations=1, steps=2, choice_noises=1)


def prompt(word: str) -> str:
    return STYLE.format(word=word)
