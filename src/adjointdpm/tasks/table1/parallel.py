"""Batches side by side, one a thread, results in order.

A batch a core, and not one batch on all cores: torch's operations on a small network are so short that with other
programs on the machine two cores lose most of their speed at the barriers inside each operation.  Operations release
Python's lock, so threads of one process are enough, and the network is there once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["batches", "in_order"]

T = TypeVar("T")


def batches(count: int, size: int) -> list[range]:
    """0 ... count - 1 in pieces of `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def in_order(function: Callable[[range], T], parts: Sequence[range], threads: int) -> Iterator[tuple[range, T]]:
    """(part, function(part)) for each part, in order, `threads` of them at a time, each with one thread of torch.

    When the caller stops early, parts that were not begun are dropped.
    """
    if threads < 2 or len(parts) < 2:
        yield from ((part, function(part)) for part in parts)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from zip(parts, pool.map(function, parts), strict=True)
