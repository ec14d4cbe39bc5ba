"""Give freed memory back to the system now and then, where the allocator would not.

Every run of a call leaves a few small objects between the freed blocks of its graph; glibc then cannot use these blocks
again for a graph of the same size, and resident memory grows by up to a tenth of a graph with each call although no
more of it is in use.  `malloc_trim` returns whole free pages, wherever they lie.  The next graph has to fetch them
again, which at every fourth run of a call cost a small network five to eight percent of a gradient's time.  So it is
called only where resident memory is seen to have grown since the first run: 80 calls grow by a few graphs, and a
process that holds free memory from earlier work keeps using that.  Other allocators and systems are left alone.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

from adjointdpm.numerics import resident_bytes

__all__ = ["Trimmer"]

_EVERY = 24
_GROWTH = 64 << 20  # bytes


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
    """Counts runs of calls, and at every 24th looks whether memory has grown."""

    def __init__(self) -> None:
        self._runs, self._at_first = 0, 0

    def about_to_run(self) -> None:
        """Call when no graph is alive and the next is about to be built."""
        trim = _malloc_trim()
        if trim is None:
            return
        if self._runs == 0:
            self._at_first = resident_bytes() or 0
        elif self._runs % _EVERY == 0 and (resident_bytes() or 0) > self._at_first + _GROWTH:
            trim(0)
        self._runs += 1
