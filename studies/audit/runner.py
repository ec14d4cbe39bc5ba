"""One case: its configuration, its run, its figures.  Every case is a run of its own that goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks import AuditConfig, AuditResult, run_audit
from adjointdpm.tasks.audit.sources import painter_for
from adjointdpm.tasks.team import Team
from studies.audit import networks
from studies.audit.design import GUIDANCE, OWNER, PURPOSE, Case, Plan, prompt
from studies.audit.heads import PER_WORD, choose, train_head

__all__ = ["Study", "run_case"]


@dataclass
class Study:
    """The model, the plan and the folder that all cases share."""

    plan: Plan
    generator: Any
    folder: Path
    team: Team
    judge: Any = None  # in place of the embedded model's, for tests

    def words(self, case: Case) -> tuple[str, ...]:
        """The objects of a case; those of the outside network with its own last layer are what it recognises."""
        if case.name != "efficientnet":
            return case.words
        from studies.audit.design import OBJECTS

        found = self.choice()
        return tuple(found["words"]) if found["own_head"] else OBJECTS[: max(1, len(case.words) or len(OBJECTS))]

    def choice(self) -> dict[str, Any]:
        """Which objects EfficientNet recognises in generated images; the main process looks, the others wait."""
        config = AuditConfig(out=self.folder / "choice", steps=self.plan.steps, guidance_scale=GUIDANCE)
        if self.team.main:
            choose(painter_for(self.generator, config), self.folder, self.plan.choice_noises)
        self.team.wait()
        return choose(None, self.folder, self.plan.choice_noises)

    def prepare(self, case: Case) -> float | None:
        """Train the last layer that the case's network needs; its accuracy on real drawings, or None."""
        if not case.network:
            return None
        name = case.network.rpartition(":")[2]
        if name == "efficientnet" and self.choice()["own_head"]:
            return None
        if self.team.main:
            self._head(name, case)
        self.team.wait()
        return self._head(name, case)

    def _head(self, name: str, case: Case) -> float:
        per_word = PER_WORD if self.plan.size != "tiny" else 6
        return train_head(networks.trunk(name), name, self.words(case), self.folder, per_word)

    def config(self, case: Case) -> AuditConfig:
        words = self.words(case)
        fields: dict[str, Any] = {
            "out": self.folder / case.name,
            "mode": case.mode,
            "prompts": tuple(prompt(word) for word in words),
            "noises": case.noises,
            "taus": case.taus,
            "steps": self.plan.steps,
            "guidance_scale": GUIDANCE,
            "iterations": self.plan.iterations,
            "baselines": case.baselines,
        }
        if case.mode == "filter":
            fields |= {"owner": OWNER, "purpose": PURPOSE}
        if case.network:
            fields |= {"network": case.network, "labels": words, "classes": self.classes(case)}
        return AuditConfig(**fields | dict(case.changes))

    def classes(self, case: Case) -> tuple[str, ...]:
        """Names of an outside network's outputs."""
        if case.name == "efficientnet" and self.choice()["own_head"]:
            rest = 1000 - sum(len(group) for group in networks.IMAGENET.values())
            return (*networks.IMAGENET, *(f"another class of ImageNet ({k})" for k in range(rest)))
        return self.words(case)


def run_case(study: Study, case: Case, on_progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """The figures of a case, or {"missing": why} where a package or a download is not to be had."""
    os.environ[networks.HEADS] = str(study.folder)
    try:
        accuracy = study.prepare(case)
    except (ImportError, OSError) as error:  # a package that is not installed, no network for pip
        return {"missing": f"{type(error).__name__}: {error}"}
    try:
        result = audit(study, case, on_progress)
    except InvalidInput as error:
        if "right to start with" not in str(error):
            raise
        return {"missing": str(error)}
    found = {k: v for k, v in result.results.items() if k not in ("config", "environment")}
    return {**found, "head_accuracy": accuracy, "words": list(study.words(case))}


def audit(study: Study, case: Case, on_progress: Callable[[int, int, str], None] | None = None) -> AuditResult:
    """The run of a case."""
    generator = study.generator.with_(gradient="full", **dict(case.road))  # the same gradient, and the memory is there
    return run_audit(study.config(case), generator, judge=study.judge, on_progress=on_progress, team=study.team)
