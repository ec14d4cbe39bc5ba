"""A part of the work that every process of a team does on its own share, and that fails in all of them or in none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from adjointdpm.errors import AdjointDPMError, NonFinite
from adjointdpm.tasks.team import Team

__all__ = ["in_step"]

T = TypeVar("T")


def in_step(team: Team, part: Callable[[], T]) -> T:
    """`part()`; if it fails in one process, each raises, so that none waits for a message that never comes.

    Needed wherever the processes exchange something afterwards.
    """
    failure: AdjointDPMError | None = None
    try:
        found = part()
    except AdjointDPMError as error:
        failure = error
    if team.agree(failure is not None):
        raise failure or NonFinite("another process failed, or found a value that is not finite")
    return found
