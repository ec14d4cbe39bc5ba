"""The solvers as lists of network calls, which is what the floor is given: times and coefficients, no objects."""

from __future__ import annotations

from torch import Tensor

from adjointdpm.schedules import Grid, Schedule
from adjointdpm.solvers import EULER, HEUN, RK4, AdamsBashforth, RungeKutta, adams_weights
from benchmarks.gradients.floor import Call

__all__ = ["program"]

TABLEAUS = {"euler": EULER, "heun": HEUN, "rk4": RK4}


def program(solver: str, schedule: Schedule, grid: Grid) -> list[Call]:
    """The calls of "euler", "heun", "rk4" or "ab4" on the exponential form for a network that predicts v.

    ε̂ = α v + σ x on a variance-preserving schedule; y = x/α, ρ = σ/α, dy/dρ = ε̂.
    """
    clock = schedule.rho(grid.t).tolist()
    if solver in TABLEAUS:
        steps = range(grid.steps)
        return [call for n in steps for call in _stages(TABLEAUS[solver], schedule, clock[n], clock[n + 1], grid.t[n])]
    order = AdamsBashforth(int(solver.removeprefix("ab"))).order
    calls = []
    for n in range(grid.steps):
        weights = adams_weights(clock[max(n + 1 - order, 0) : n + 1][::-1], clock[n + 1])
        calls.append(_call(schedule, grid.t[n], (), tuple(enumerate(weights))))
    return calls


def _stages(method: RungeKutta, schedule: Schedule, start: float, end: float, t: Tensor) -> list[Call]:
    h, calls, stages = end - start, [], len(method.b)
    for i, (row, c) in enumerate(zip(method.a, method.c, strict=True)):
        at = t if c == 0 else schedule.t_of_log_snr(-t.new_tensor(start + c * h).log())
        before = tuple((i - j, h * a) for j, a in enumerate(row) if a)
        after = tuple((stages - 1 - j, h * b) for j, b in enumerate(method.b) if b) if i == stages - 1 else ()
        calls.append(_call(schedule, at, before, after))
    return calls


def _call(schedule: Schedule, t: Tensor, before: tuple, after: tuple) -> Call:  # type: ignore[type-arg]
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    return Call(alpha, float(schedule.net_time(t)), alpha, sigma, before, after)
