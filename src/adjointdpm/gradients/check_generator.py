"""Each gradient engine of a generator against plain backprop through the very same call, on the user's own model.

The engines are compared on the road that they run on: `exact` on the generator's own (the pipeline road unless it was
made with a solver), the continuous adjoint on the ODE road, where it is defined; `full`, plain backprop, is the
measure on each.  Where plain backprop at the asked number of steps would not fit in memory, which is estimated first
from two short runs (its peak grows by one network graph a step), fewer steps are taken and the report says so.

The metric is a fixed random projection of the image before its clamp, so that no component of the gradient is hidden;
the share of saturated pixels, whose gradient a loss on the clamped image would not see, is reported beside it.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import AdjointDPMError, InvalidInput, NumericalWarning
from adjointdpm.gradients.check_report import GradientReport, Row
from adjointdpm.gradients.check_subject import Subject, Trace
from adjointdpm.gradients.measure import Measured, compare, finite_difference_row, tolerance_for
from adjointdpm.gradients.truncated import note_bias
from adjointdpm.numerics import free_bytes, relative_error

__all__ = ["ENGINES", "WRT", "check_generator", "is_generator"]

#: Engine names of a check, and whether plain backprop should be met to rounding.
EXACT = ("full", "exact", "reversible")
APPROXIMATE = ("adjoint", "adjoint:paper", "truncated", "random_truncation", "one_step")
ENGINES = {name: name in EXACT for name in (*EXACT, *APPROXIMATE)}
#: What some of them cannot give a gradient to.
BLIND = {"truncated": ("x_T",), "random_truncation": ("x_T",)}
WRT = ("x_T", "cond", "guidance", "weights")


def is_generator(thing: Any) -> bool:
    """Whether this looks like what `ad.differentiable` returns (no import: pipelines are a later layer)."""
    return callable(thing) and all(hasattr(thing, n) for n in ("with_", "encode_prompt", "prepare_latents", "road"))


def check_generator(
    gen: Any,
    prompt: str | None = None,
    *,
    steps: int = 10,
    engines: Sequence[str] = tuple(ENGINES),
    wrt: Sequence[str] = WRT,
    guidance_scale: float = 5.0,
    loss: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    directions: int = 2,
    meter: bool = True,
    memory: float | None = None,
    progress: Callable[[str], None] | None = None,
    **call: Any,
) -> GradientReport:
    """Gradient error of each engine on one prompt.

    Args:
        gen: a generator from `ad.differentiable`.
        prompt: text to generate from; an empty prompt if None.
        steps: sampling steps; fewer are taken, and the report says so, if plain backprop would not fit.
        engines: of "full", "exact", "reversible", "adjoint", "adjoint:paper", "truncated", "random_truncation",
            "one_step"; all but the first two run on the ODE road, "reversible" with the solver "belm".
        wrt: of "x_T", "cond" (the prompt's embedding), "guidance" (the scale), "weights" (all of the denoiser).
        guidance_scale: guidance of the call; with 1 or less there is none, and "guidance" is left out.
        loss: metric on `image_unclamped`, (B, 3, H, W) nominally in [0, 1]; a fixed random projection if None.
        seed: seed of the starting noise, of the projection and of the directions.
        directions: directions of finite difference for each wrt; 0 leaves it out.
        meter: measure the peak of live tensor bytes (one more run of each engine).
        memory: bytes that plain backprop may take; by default half of what is free now.
        progress: called with a line of text before each stage.
        call: further arguments of the generator's call (height=, width= ...).

    Returns:
        `GradientReport`; its facts hold `steps`, `steps_asked`, `saturated_share`, `road` and, on the ODE road,
        `round_trip` (distance of x_T to the noise that its sample leads back to); its `profiles` the error of dL/dy at
        each node.
    """
    _validate(steps, engines, wrt, directions)
    say = progress or (lambda _line: None)
    subject = Subject(gen, prompt, guidance_scale, loss, seed, tuple(wrt), call)
    facts: dict[str, Any] = {"road": gen.road, "steps_asked": steps}
    problems: list[str] = []
    rows: list[Row] = []
    with subject.prepared():
        say("estimating the memory of plain backprop")
        budget = free_bytes(subject.device) / 2 if memory is None else memory
        steps, estimate = _steps_that_fit(subject, steps, budget)
        facts |= {"steps": steps, "plain_backprop_mb": estimate / 2**20}
        references: dict[str, Measured] = {}
        traces: dict[str, Trace] = {}
        profiles: dict[str, dict[int, float]] = {}
        for engine in engines:
            road, variant = subject.variant(engine)
            try:
                blind = BLIND.get(engine, ())
                if set(subject.groups) <= set(blind):
                    continue
                if road not in references:
                    say(f"plain backprop on the {road} road, {steps} steps")
                    traces[road] = {}
                    wanted = traces[road] if road != "pipeline" else None
                    references[road] = subject.measure(subject.variant("full", road)[1], steps, trace=wanted)
                say(f"{engine} on the {road} road, {steps} steps")
                trace: Trace | None = {} if road != "pipeline" else None
                with _numerical_warnings() as lost:
                    got = subject.measure(variant, steps, trace=trace, without=blind)
                    peak = subject.measure(variant, steps, meter=True, without=blind).peak_bytes if meter else math.nan
            except AdjointDPMError as error:
                problems.append(f"{engine} could not run: {error}")
                continue
            if trace:
                profiles[engine] = {
                    n: relative_error(a, traces[road][n]) for n, a in sorted(trace.items(), reverse=True)
                }
            for name in (name for name in subject.groups if name not in blind):
                error_, cosine, note = compare(got, references[road], name)
                note = "; ".join(filter(None, (note, *lost)))
                rows.append(
                    Row(engine, name, error_, cosine, got.seconds, peak / 2**20, f"plain backprop ({road} road)",
                        0.0, tolerance_for(subject.dtype, against="reference"), ENGINES[engine], note)
                )  # fmt: skip
            if not ENGINES[engine]:
                worst = max((r for r in rows if r.engine == engine), key=lambda r: r.rel_error)
                note_bias(subject.denoiser, engine, f"{worst.rel_error:.1e} off for {worst.wrt} at {steps} steps")
        if directions and gen.road in references:
            rows += _finite_differences(subject, references[gen.road], steps, directions, budget, say)
        facts |= {"saturated_share": subject.saturated_share}
        if gen.road == "ode":
            say("there and back")
            facts["round_trip"] = subject.round_trip(steps)
    return GradientReport(tuple(rows), tuple(problems), tuple(subject.notes), facts, profiles)


def _finite_differences(
    subject: Subject, base: Measured, steps: int, directions: int, budget: float, say: Callable[[str], None]
) -> list[Row]:
    """The gradient of the generator's own road against differences: in float64 on the ODE road where that fits."""
    variant = subject.variant("full", subject.gen.road)[1]
    bytes_now = sum(p.nbytes for p in subject.denoiser.parameters())
    in_float64 = subject.gen.road == "ode" and subject.dtype != torch.float64 and 4 * bytes_now < budget
    with subject.float64() if in_float64 else contextlib.nullcontext():
        if in_float64:
            base = subject.measure(variant, steps)
        rows = []
        for name in subject.groups:
            say(f"finite difference for {name}" + (" in float64" if in_float64 else ""))
            rows.append(
                finite_difference_row(
                    lambda: subject.loss_of(variant, steps),
                    subject.groups,
                    name,
                    base,
                    directions=directions,
                    seed=subject.seed,
                    rounding=subject.dtype,
                )
            )
    return rows


@contextlib.contextmanager
def _numerical_warnings() -> Iterator[list[str]]:
    """Collects the library's numerical warnings as a note for the table; other warnings pass."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NumericalWarning)
        yield notes
    for warning in caught:
        if not issubclass(warning.category, NumericalWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif not notes and "biased" not in str(warning.message):  # which the table says anyway
            notes.append("the backward solve did not converge")


def _steps_that_fit(subject: Subject, steps: int, budget: float) -> tuple[int, float]:
    """The number of steps at which plain backprop fits, and its estimated bytes there, from runs of 2 and 3 steps."""
    if steps <= 3:
        return steps, math.nan
    variant = subject.variant("full", subject.gen.road)[1]
    two, three = (subject.measure(variant, n, meter=True).peak_bytes for n in (2, 3))
    per_step = max(three - two, 1.0)
    fitting = int(2 + max(budget - two, 0.0) // per_step)
    taken = min(steps, max(fitting, 2))
    if taken < steps:
        subject.notes.append(
            f"Plain backprop over {steps} steps would take about {(two + (steps - 2) * per_step) / 2**30:.1f} GiB of "
            f"{budget / 2**30:.1f} GiB allowed: checked with {taken} steps instead."
        )
    return taken, two + (taken - 2) * per_step


def _validate(steps: int, engines: Sequence[str], wrt: Sequence[str], directions: int) -> None:
    if not isinstance(steps, int) or steps < 1:
        raise InvalidInput(f"steps must be a whole number of at least 1, got {steps!r}")
    if unknown := [e for e in engines if e not in ENGINES]:
        raise InvalidInput(f"unknown engines {unknown}; known: {list(ENGINES)}")
    if unknown := [w for w in wrt if w not in WRT]:
        raise InvalidInput(f"unknown wrt {unknown}; known: {list(WRT)}")
    if not isinstance(directions, int) or directions < 0:
        raise InvalidInput(f"directions must be a whole number, 0 for none, got {directions!r}")
