"""A call on a batch as several calls on parts of it, so that the graph of one part is alive at a time.

Guided samplers put both branches into one batch; in two parts a gradient's peak is about half.  The results of a batch
and of its parts differ by rounding (kernels are chosen by size), so the gradient is no longer bit equal to that of the
whole batch, and this is an option.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.replay.structure import swapped, tensors_in

__all__ = ["in_parts"]


def in_parts(run: Callable[[Any, Any], Any], parts: int, args: Any, kwargs: Any) -> Any:
    """`run(args, kwargs)` on `parts` parts of the batch, one after the other, and the results put together.

    The batch is the leading dimension of the first tensor that has one; every tensor of that leading dimension is
    split, others go to every part as they are.  A batch that does not divide into `parts` runs whole.

    Raises:
        InvalidInput: a result has a leading dimension that is neither that of a part nor the same in all.
    """
    tensors = [t for t in tensors_in((args, kwargs)) if t.ndim]
    batch = len(tensors[0]) if tensors else 0
    if parts < 2 or batch < parts or batch % parts:
        return run(args, kwargs)
    size = batch // parts

    def part(i: int, value: Any) -> Any:
        def cut(t: torch.Tensor) -> torch.Tensor:
            return t[i * size : (i + 1) * size] if t.ndim and len(t) == batch else t

        return swapped(value, torch.Tensor, cut)

    results = [run(part(i, args), part(i, kwargs)) for i in range(parts)]
    found = [iter(tensors_in(result)) for result in results]
    joined = {}
    for first in tensors_in(results[0]):
        pieces = [next(f) for f in found]
        if first.ndim and all(p.ndim and len(p) == size for p in pieces):
            joined[id(first)] = torch.cat(pieces)
        elif not all(torch.equal(p, first) for p in pieces):
            raise InvalidInput(
                f"a result of shape {tuple(first.shape)} has no batch dimension of {size} and differs between parts of "
                "the batch, so they cannot be put together: leave split= out"
            )
    return swapped(results[0], torch.Tensor, lambda t: joined.get(id(t), t))
