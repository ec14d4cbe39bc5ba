"""Fingerprints of weights: two integers each, computed from their bits.

Exact, so that one changed bit is seen, and alike on every device and for every number of threads, which norms are not.
Costs a few milliseconds for ten million weights on a CPU, and is taken twice per loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["UNKNOWN", "fingerprints"]

UNKNOWN = -(1 << 63)  # for tensors that hold no values (meta), or none that can be read as bits
_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprints(tensors: Sequence[torch.Tensor], dtypes: Sequence[torch.dtype]) -> torch.Tensor:
    """A wrapping sum of the bits of each tensor, as it is when cast to its dtype, and the bits of one element.

    The element is there for what leaves the sum as it was: a changed sign of all of an even number of elements.
    Returns (len(tensors), 2), int64, on the CPU.
    """
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[int], list[torch.Tensor], list[torch.Tensor]]] = {}
    for i, (tensor, dtype) in enumerate(zip(tensors, dtypes, strict=True)):
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or not tensor.numel():
            continue
        real = tensor if tensor.dtype == dtype else tensor.to(dtype)
        if real.is_complex():
            real = torch.view_as_real(real)
        bits = real.detach().view(_INTEGER[real.element_size()])
        where, sums, elements = groups.setdefault((bits.device, bits.dtype), ([], [], []))
        where.append(i)
        sums.append(bits.sum(dtype=torch.int64 if bits.dtype == torch.int64 else torch.int32))
        elements.append(bits[tuple([n // 2 for n in bits.shape])])
    result = torch.full((len(tensors), 2), UNKNOWN)
    for where, sums, elements in groups.values():
        result[where, 0] = torch.stack(sums).long().cpu()
        result[where, 1] = torch.stack(elements).long().cpu()
    return result
