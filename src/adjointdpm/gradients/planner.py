"""`ad.plan`: what a gradient of a generated image will cost with each engine, before it is taken.

One network call of each kind is measured (bytes of its graph, peak of its forward and VJP), short runs show how many
calls a step makes and what they and everything around them take, and the rest is arithmetic: which graphs `replay`
would keep is found by following its own rule.  Nothing is extrapolated from another machine or model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.gradients.plan_report import Plan, PlanRow
from adjointdpm.numerics import synchronize
from adjointdpm.replay.budget import Budget, parse_memory, readable
from adjointdpm.replay.profile import Profile

__all__ = ["plan"]

SHORT, LONG = 4, 7  # steps of the runs; some schedulers start with four of another kind
ROUNDS = 2  # of them, of which the fastest count
#: Evaluations and VJPs in backward for each step of one evaluation, by the adjoint's default (rk4, stored).
ADJOINT = 3, 4


def plan(
    gen: Any,
    steps: int = 50,
    memory: int | float | str | None = None,
    *,
    prompt: str = "",
    batch: int = 1,
    guidance_scale: float | None = None,
    **call: Any,
) -> Plan:
    """Predict the cost of the gradient of one generated batch with respect to its noise and whatever requires grad.

    Args:
        gen: a generator from `ad.differentiable`; its road, solver, branches and `wrt` are kept.
        steps: sampling steps of the gradient that is planned.
        memory: bytes that may be used ("6GB", 2e9, "auto" for what is free on the device), or None for no limit.
        prompt, batch, guidance_scale: of the call; its pipeline's own guidance scale by default.
        call: further arguments of the generator's call (height=, width= ...).

    Returns:
        `Plan`: a row for each engine, and the exact one that is fastest within `memory`.  `print(plan)` shows a table.

    Raises:
        InvalidInput: not a generator, bad steps; or a memory that no exact engine fits: names the smallest that works.
    """
    if not all(hasattr(gen, name) for name in ("with_", "prepare_latents", "road")):
        raise InvalidInput(f"expected a generator from ad.differentiable, got {type(gen).__name__}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidInput(f"steps must be a whole number of at least 1, got {steps!r}")
    limit = None if memory is None else parse_memory(memory)
    if guidance_scale is not None:
        call["guidance_scale"] = guidance_scale
    measured = _measure(gen, prompt, batch, call)
    if memory == "auto":
        limit = int(measured.rest[LONG]) + Budget("auto").limit(measured.device)
    return _plan(gen, steps, limit, measured)


@dataclass(frozen=True)
class _Measured:
    """What the short runs showed.

    Attributes:
        sequence: the calls in order, by number of steps.
        rest: bytes beside the graphs, by number of steps.
        kept: seconds of forward and backward with every graph kept, by number of steps.
        again: seconds of running one evaluation again.
        device: where the pipeline runs.
    """

    sequence: dict[int, list[Profile]]
    rest: dict[int, float]
    kept: dict[int, float]
    again: float
    device: torch.device

    def calls(self, steps: int) -> list[Profile]:
        """The calls of a run of `steps` steps: those of the short run, with the steps' own repeated."""
        short, long = self.sequence[SHORT], self.sequence[LONG]
        step, tail = long[0], [p for p in short if p != long[0]]
        each = (len(long) - len(short)) / (LONG - SHORT)
        return [step] * max(round(len(short) - len(tail) + each * (steps - SHORT)), 1) + tail


def _linear(values: dict[int, float], steps: int) -> float:
    slope = (values[LONG] - values[SHORT]) / (LONG - SHORT)
    return values[SHORT] + max(slope, 0.0) * (steps - SHORT)


def _measure(gen: Any, prompt: str, batch: int, call: dict[str, Any]) -> _Measured:
    """Run the generator with 4 and with 7 steps, all graphs kept, and with 7 steps and one kept."""
    size = {k: call[k] for k in ("height", "width") if k in call}
    with torch.no_grad():
        latents = gen.prepare_latents(batch, 0, **size)
    call = call | ({"prompt": [prompt] * batch} if "prompt" in gen.accepts else {})

    def seconds(steps: int, memory: Budget | None) -> float:
        leaf = latents.detach().clone().requires_grad_(True)
        variant = gen.with_(memory=memory, gradient="exact")
        synchronize(latents.device)
        started = time.perf_counter()
        out = variant(num_inference_steps=steps, latents=leaf, **call)
        # Every leaf that a loss would reach, without touching anybody's `.grad`.
        leaves = [leaf, *(p for p in gen.parameters() if p.requires_grad)]
        torch.autograd.grad(out.image_unclamped.square().mean(), leaves, allow_unused=True)
        synchronize(latents.device)
        return time.perf_counter() - started

    def ample() -> Budget:
        return Budget(float(1 << 62))

    seconds(SHORT, ample())  # measures the calls, and warms up
    sequence: dict[int, list[Profile]] = {}
    rest: dict[int, float] = {}
    kept: dict[int, float] = {}
    replayed = math.inf
    for _ in range(ROUNDS):
        for steps in (SHORT, LONG):
            budget = ample()
            kept[steps] = min(kept.get(steps, math.inf), seconds(steps, budget))
            sequence[steps], rest[steps] = [p for _, p in budget.calls], float(budget.rest_bytes)
        replayed = min(replayed, seconds(LONG, None))
    runs_again = sum(p == sequence[LONG][0] for p in sequence[LONG]) - 1
    again = max(replayed - kept[LONG], 0.0) / max(runs_again, 1)
    return _Measured(sequence, rest, kept, again, latents.device)


def _plan(gen: Any, steps: int, limit: int | None, measured: _Measured) -> Plan:
    calls, rest = measured.calls(steps), _linear(measured.rest, steps)
    all_kept = _linear(measured.kept, steps)
    nfe = sum(p == calls[0] for p in calls)
    others = len(calls) - nfe
    largest = max(p.peak_bytes for p in calls)
    if limit is not None and limit < rest + largest:
        raise InvalidInput(
            f"{readable(limit)} cannot hold a gradient of {steps} steps: one graph needs {readable(largest)} beside "
            f"{readable(rest)} of weights and states; the smallest budget that works is "
            f'"{readable(1.02 * (rest + largest))}"'
        )

    def replayed(name: str, room: float, keep: int | None = None) -> PlanRow:
        peak, again = _follow(calls, room, keep)
        seconds = all_kept + measured.again * sum(p == calls[0] for p in again)
        return PlanRow(name, True, nfe, len(calls), len(again), int(rest + peak), seconds)

    rows = [replayed("exact", math.inf, keep=1)]
    if limit is not None:
        rows.append(replayed(f'exact, memory="{readable(limit)}"', limit - rest))
    rows.append(replayed("full", math.inf))
    choice = min((r for r in rows if limit is None or r.peak_bytes <= limit), key=lambda r: r.seconds)
    if gen.road == "ode":
        forward = measured.again
        vjp = max((measured.kept[LONG] - measured.kept[SHORT]) / (LONG - SHORT) - forward, 0.0)
        one = int(rest + largest)
        evaluations, products = ADJOINT
        seconds = all_kept + nfe * (evaluations * forward + (products - 1) * vjp)
        rows.append(PlanRow("adjoint", False, (1 + evaluations) * nfe, products * nfe + others, 0, one, seconds))
        rows.append(PlanRow("truncated", False, nfe, 1 + others, 0, one, all_kept - (nfe - 1) * vjp))
        if gen.settings.solver == "belm":
            rows.append(PlanRow("reversible", True, 2 * nfe, len(calls), nfe, one, all_kept + nfe * forward))
    return Plan(tuple(rows), choice.engine, steps, limit, int(rest + largest))


def _follow(calls: Sequence[Profile], room: float, keep: int | None) -> tuple[float, list[Profile]]:
    """Peak of kept graphs and running calls, and the calls that are run again, by the rules of `replay`.

    `keep`: without a budget, how many graphs of a kind stay (decoder and denoiser each keep their last).
    """
    kept: list[Profile] = []
    again: list[Profile] = []
    peak = 0.0
    for call in calls:
        if keep is not None:
            same = [p for p in kept if p == call]
            if len(same) >= keep:
                kept.remove(call)
                again.append(call)
        while kept and sum(p.graph_bytes for p in kept) + call.peak_bytes > room:
            again.append(kept.pop(0))
        peak = max(peak, sum(p.graph_bytes for p in kept) + call.peak_bytes)
        if call.keeping_pays or keep is not None:
            kept.append(call)
        else:
            again.append(call)
    return peak, again
