"""Batches of samples dealt out to the processes, a round of one batch each at a time.

Which samples make a batch depends on the settings alone, and a batch is computed by one process, so what is found for
a sample does not depend on how many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from adjointdpm.tasks.audit.bench import Bench, CleanSample
from adjointdpm.tasks.audit.samples import Sample
from adjointdpm.tasks.audit.search import Budget, Found
from adjointdpm.tasks.images import parts
from adjointdpm.tasks.team import Team

__all__ = ["batches_of", "clean_samples", "in_rounds", "search_all"]

T = TypeVar("T")
R = TypeVar("R")


def batches_of(items: Sequence[T], size: int | None) -> list[list[T]]:
    """In order, `size` at a time (None: all)."""
    return [[items[i] for i in part] for part in parts(len(items), size)] if items else []


def in_rounds(batches: Sequence[T], work: Callable[[T], R], team: Team, first: int = 0) -> Iterator[list[R]]:
    """The results of `team.size` batches at a time, in order, on every process; from batch `first` on."""
    for begin in range(first, len(batches), team.size):
        mine = team.mine(batches[begin : begin + team.size])
        with team.in_step():
            results = [work(batch) for batch in mine]
        yield team.gather(results)


def clean_samples(bench: Bench, samples: Sequence[Sample], team: Team) -> list[CleanSample]:
    """What the clean image of each sample showed."""
    rounds = in_rounds(batches_of(samples, bench.config.batch_size), bench.clean, team)
    return [clean for results in rounds for batch in results for clean in batch]


def search_all(
    bench: Bench, chosen: Sequence[CleanSample], budget: Budget, team: Team, pause: Callable[[], None]
) -> list[Found]:
    """What exact gradients find for samples, in order; `pause` is called after each round, and may raise."""

    def work(batch: list[CleanSample]) -> list[Found]:
        return bench.search([c.sample for c in batch], budget, "exact")

    everything: list[Found] = []
    for results in in_rounds(batches_of(chosen, bench.config.batch_size), work, team):
        everything += [found for batch in results for found in batch]
        pause()
    return everything
