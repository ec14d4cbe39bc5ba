"""`adjointdpm plan`: what a gradient will cost with each engine on one's own model, before it is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.shell import Shell

__all__ = ["PlanRequest", "plan"]


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What to plan; the fields are the command's options."""

    prompt: str
    steps: int
    guidance: float
    batch: int
    memory: str | None
    height: int | None
    width: int | None
    weights: bool
    branches: str
    solver: str | None
    spacing: str | None
    form: str | None


def plan(shell: Shell, request: PlanRequest, choice: ModelChoice) -> int:
    """Measure a few calls and print the plan; 0."""
    import adjointdpm as ad
    from adjointdpm.pipelines import Settings
    from adjointdpm.replay.budget import parse_memory

    if request.memory is not None:
        parse_memory(request.memory)  # before anything is loaded
    settings: dict[str, Any] = {
        "solver": request.solver, "spacing": request.spacing, "form": request.form, "branches": request.branches,
    }  # fmt: skip
    Settings(**settings)
    pipe = choice.load()
    wrt = ("x_T", "cond", "weights") if request.weights else ("x_T", "cond")
    size = {k: v for k, v in (("height", request.height), ("width", request.width)) if v is not None}
    with shell.progress("measuring a few network calls", 1) as update:
        found = ad.plan(
            ad.differentiable(pipe, wrt=wrt, **settings), request.steps, request.memory,
            prompt=request.prompt, batch=request.batch, guidance_scale=request.guidance, **size,
        )  # fmt: skip
        update(1, "measured")
    shell.emit({"command": "plan", "model": choice.name, **found.as_dict()})
    shell.say(found.table())
    return 0
