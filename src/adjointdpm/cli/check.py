"""`adjointdpm check`: the gradient error of each engine on one's own model, and what it is held against.

Two roads are checked.  The pipeline road runs the model's own scheduler under replay (`exact`).  The ODE road runs the
probability-flow ODE with `exact`, the continuous adjoint as the library solves it (`adjoint`) and as the paper does
(`adjoint:paper`).  Each is compared with plain backprop through the same call (`full`).  Plain backprop is compared
with a directional finite difference: in float64 on the ODE road, where the whole computation can be done in it, and
with an estimate of its own noise on the pipeline road.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adjointdpm.cli.finding import DIFFERENCE, Finding
from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.shell import Shell
from adjointdpm.errors import InvalidInput

if TYPE_CHECKING:
    from adjointdpm.gradients.check import GradientReport, Row

__all__ = ["CheckRequest", "check"]

PIPELINE_ENGINES = ("full", "exact")


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """What to check; the fields are the command's options."""

    prompt: str
    steps: int
    guidance: float
    seed: int
    engines: tuple[str, ...]
    wrt: tuple[str, ...]
    directions: int
    solver: str
    spacing: str


def check(shell: Shell, request: CheckRequest, choice: ModelChoice) -> int:
    """Measure and print; 0 if every gradient that should be exact is, else 1."""
    from adjointdpm.cli.check_table import tables

    check_names(request)
    findings, report = measure(shell, request, choice)
    shell.emit(document(findings, report, request, choice))
    shell.say(*tables(findings))
    for line in report.profile_lines():
        shell.say(line)
    for name, value in report.facts.items():
        shell.say(f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}")
    shell.say(report.verdict)
    return 0 if report.ok else 1


def check_names(request: CheckRequest) -> None:
    """Raise `InvalidInput` for an unknown engine, tensor, solver or spacing, before anything is loaded."""
    from typing import get_args

    from adjointdpm.gradients.check_generator import ENGINES, WRT
    from adjointdpm.schedules import Spacing
    from adjointdpm.solvers import make_solver

    make_solver(request.solver)
    if request.spacing not in get_args(Spacing):
        raise InvalidInput(f"--spacing {request.spacing}: expected one of {', '.join(get_args(Spacing))}.")

    for option, names, known in (("--engines", request.engines, tuple(ENGINES)), ("--wrt", request.wrt, WRT)):
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise InvalidInput(f"{option} {', '.join(unknown) or '(none)'}: expected some of {', '.join(known)}.")


def measure(shell: Shell, request: CheckRequest, choice: ModelChoice) -> tuple[list[Finding], GradientReport]:
    """The rows of both roads, and one report of all of them."""
    import adjointdpm as ad
    from adjointdpm.gradients.check import GradientReport, check_generator

    pipe = choice.load()
    on_pipeline = tuple(name for name in request.engines if name in PIPELINE_ENGINES)
    road: dict[str, Any] = {"solver": request.solver, "spacing": request.spacing}
    stages: list[tuple[str, Any, tuple[str, ...]]] = [
        ("pipeline", lambda: ad.differentiable(pipe), on_pipeline),
        ("ode", lambda: ad.differentiable(pipe, **road), request.engines),
    ]
    findings: list[Finding] = []
    reports: list[GradientReport] = []
    done = 0
    total = sum(3 + len(engines) + bool(request.directions) * len(request.wrt) for *_, engines in stages)
    with shell.progress("checking gradients", total) as update:

        def say(line: str) -> None:
            nonlocal done
            done += 1
            update(min(done, total), line)

        for name, make, engines in stages:
            if not engines:
                continue
            try:
                found = check_generator(
                    make(), request.prompt, steps=request.steps, engines=engines, wrt=request.wrt,
                    guidance_scale=request.guidance, seed=request.seed, directions=request.directions, progress=say,
                )  # fmt: skip
            except InvalidInput as error:
                if name == "pipeline":
                    raise
                reports.append(GradientReport((), (), (f"The ODE road was left out: {error}",)))
                break
            findings += [Finding(name, _dtype(row, choice), row) for row in found.rows]
            reports.append(found)
    return findings, _merged(findings, reports)


def _dtype(row: Row, choice: ModelChoice) -> str:
    """The number format of a row: the library takes its finite differences in float64 where it can."""
    import torch

    from adjointdpm.gradients.measure import tolerance_for

    in_float64 = row.tolerance == tolerance_for(torch.float64, against=DIFFERENCE)
    return "float64" if row.against == DIFFERENCE and in_float64 else choice.dtype


def _merged(findings: list[Finding], reports: list[GradientReport]) -> GradientReport:
    from adjointdpm.gradients.check import GradientReport

    shares = [r.facts["saturated_share"] for r in reports if "saturated_share" in r.facts]
    steps = [r.facts["steps"] for r in reports if "steps" in r.facts]
    facts = {"steps": min(steps, default=0), "saturated_share": shares[0] if shares else math.nan}
    trips = [r.facts["round_trip"] for r in reports if "round_trip" in r.facts]
    facts |= {"round_trip": trips[0]} if trips else {}
    profiles = {engine: profile for r in reports for engine, profile in r.profiles.items()}
    problems = tuple(dict.fromkeys(problem for r in reports for problem in r.problems))
    notes = tuple(dict.fromkeys(note for r in reports for note in r.notes))
    return GradientReport(tuple(finding.row for finding in findings), problems, notes, facts, profiles)


def document(
    findings: list[Finding], report: GradientReport, request: CheckRequest, choice: ModelChoice
) -> dict[str, Any]:
    """The JSON document: engines against plain backprop in `results`, plain backprop itself in `finite_differences`."""
    return {
        "command": "check",
        "model": choice.name,
        "prompt": request.prompt,
        "steps_asked": request.steps,
        "ok": report.ok,
        "verdict": report.verdict,
        "problems": list(report.problems),
        "notes": list(report.notes),
        **report.facts,
        "profiles": report.as_dict()["profiles"],
        "results": [finding.as_dict() for finding in findings if not finding.is_difference],
        "finite_differences": [finding.as_dict() for finding in findings if finding.is_difference],
    }
