"""All runs of the study, each stored when it ends, so that a stopped study goes on where it was."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adjointdpm.runs import atomic_write, load_tensors, save_tensors
from studies.reward import timed
from studies.reward.design import METHODS, PILOT_SEED, RATES, Goal, Plan
from studies.reward.vocabulary import learn_class

__all__ = ["Study", "cases", "key_of"]

Say = Callable[[str], None]


@dataclass
class Study:
    """The model, the judge, and the folder for what is finished."""

    plan: Plan
    generator: Any
    judge: Any
    folder: Path

    def stored(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of `make` from its file if the same plan made it; its tensors under "images" lie beside it."""
        path = self.folder / f"{key}.json"
        plan = json.loads(json.dumps(asdict(self.plan)))
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if found["plan"] == plan:
                return found
        made = make()
        images = {name: (255 * image).round().byte() for name, image in made.pop("images").items()}
        save_tensors(self.folder / f"{key}.safetensors", images)
        made["plan"] = plan
        atomic_write(path, json.dumps(made, indent=1))
        return made

    def pictures(self, key: str) -> dict[str, Any]:
        """Tensors (B, 3, H, W) in [0, 1] of a stored result."""
        tensors, _ = load_tensors(self.folder / f"{key}.safetensors")
        return {name: image.float() / 255 for name, image in tensors.items()}

    def timed(self, goal: Goal, part: str, method: str, rate: float, seed: int, seconds: float) -> dict[str, Any]:
        """One run for a given time."""
        reached = timed.run(self.generator, self.judge, goal, part, method, rate, seed, seconds, self.plan)
        kept = asdict(reached)
        kept["images"] = {"before": kept.pop("start"), "after": kept["images"]}
        return {**kept, "rate": rate, "goal": goal.name, "part": part, "method": method, "seed": seed}

    def rate(self, goal: Goal, part: str, method: str, say: Say) -> float:
        """The learning rate that reaches the highest optimised reward on the pilot seed in half the time."""
        rates = RATES[part]
        if method == "best_of" or not self.plan.rates:
            return rates[1]
        scores = {}
        for rate in rates:
            say(f"{goal.title}, {part}, {method}: pilot of the rate {rate:g}")
            found = self.stored(
                key_of(goal.name, part, method, PILOT_SEED, rate),
                lambda rate=rate: self.timed(goal, part, method, rate, PILOT_SEED, self.plan.seconds / 2),  # type: ignore[misc]
            )
            scores[rate] = sum(found["after"]["reward"])
        return max(scores, key=lambda rate: scores[rate])

    def classes(self, say: Say) -> list[dict[str, Any]]:
        """Vocabulary expansion, class by class."""
        found = []
        for what in self.plan.classes:
            say(f"embedding of {what}")
            folder = self.folder / f"class-{what.replace(' ', '-')}"
            found.append(
                self.stored(
                    f"{folder.name}-figures",
                    lambda what=what, folder=folder: learn_class(  # type: ignore[misc]
                        self.generator, self.judge, what, self.plan, folder, None
                    ),
                )
            )
        return found


def key_of(goal: str, part: str, method: str, seed: int, rate: float | None = None) -> str:
    """The name of a run's files."""
    return f"{goal}-{part}-{method}-{seed}" + ("" if rate is None else f"-rate-{rate:g}")


def cases(study: Study, say: Say) -> Iterator[dict[str, Any]]:
    """Every run, seed by seed; within a seed the methods take turns, in a random order."""
    plan = study.plan
    rates = {
        (goal.name, part, method): study.rate(goal, part, method, say)
        for goal in plan.goals
        for part, methods in METHODS.items()
        for method in methods
    }
    for seed in plan.seeds:
        todo = [(goal, part, method) for goal in plan.goals for part, methods in METHODS.items() for method in methods]
        for goal, part, method in random.Random(seed).sample(todo, len(todo)):
            say(f"{goal.title}, {part}, {method}, seed {seed}")
            rate = rates[goal.name, part, method]
            yield study.stored(
                key_of(goal.name, part, method, seed),
                lambda goal=goal, part=part, method=method, rate=rate, seed=seed: study.timed(  # type: ignore[misc]
                    goal, part, method, rate, seed, plan.seconds
                ),
            )
