"""Give freed memory back to the system now and then, where the allocator would not.

Every run of a call leaves a few small objects between the freed blocks of its graph; glibc then cannot use these blocks
again for a graph of the same size, and resident memory grows by up to a tenth of a graph with each call although no
more of it is in use.  `malloc_trim` returns whole free pages, wherever they lie.  The next graph has to fetch them
again: at every fourth run of a call that cost a small network five to eight percent of a gradient's time, at every
24th it is lost in the noise, and 80 calls still do not grow by more than a few graphs.  Other allocators and systems
are left alone.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

__all__ = ["Trimmer"]

_EVERY = 24


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim  # glibc has it, musl and others do not
    except (OSError, AttributeError):
        return None
    return trim


class Trimmer:
    """Counts runs of calls, and trims at every 24th."""

    def __init__(self) -> None:
        self._runs = 0

    def about_to_run(self) -> None:
        """Call when no graph is alive and the next is about to be built."""
        self._runs += 1
        trim = _malloc_trim()
        if trim is not None and self._runs % _EVERY == 0:
            trim(0)
