"""Timing: rows take turns in an order drawn anew, each with its floor on either side; the ratio there counts."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["spread", "take_turns"]


def take_turns(
    run: Callable[[str], Any], floor_of: dict[str, str], rounds: int, floors_every: int = 1, *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Seconds and ratios to the floor of every row.

    Args:
        run: computes one row, or one floor, by name.
        floor_of: the floor of each row.
        rounds: turns.
        floors_every: rows between two floors: the machine's speed drifts over tens of seconds, so where a row takes
            long the floors can be sparser.
    """
    seconds: dict[str, list[float]] = {name: [] for name in (*floor_of, *floor_of.values())}
    over: dict[str, list[float]] = {name: [] for name in floor_of}

    def timed(name: str) -> float:
        began = time.perf_counter()
        run(name)
        seconds[name].append(time.perf_counter() - began)
        return seconds[name][-1]

    for turn in range(rounds):
        draw = random.Random(1000 * seed + turn)
        for floor in sorted(set(floor_of.values())):
            rows = [name for name in floor_of if floor_of[name] == floor]
            draw.shuffle(rows)
            before = timed(floor)
            for few in _parts(rows, floors_every):
                taken = {name: timed(name) for name in few}
                after = timed(floor)
                for name in few:
                    over[name].append(2 * taken[name] / (before + after))
                before = after
    return {
        name: {"seconds": spread(times), **({"over_floor": spread(over[name])} if name in over else {})}
        for name, times in seconds.items()
    }


def _parts(rows: Sequence[str], size: int) -> list[Sequence[str]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def spread(values: Sequence[float]) -> list[float]:
    """Lower quartile, median and upper quartile."""
    if len(values) < 2:
        return [values[0]] * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, middle, high]
