"""Fingerprints of weights: two integers each, computed from their bits.

Exact, so that one changed bit is seen, and alike on every device and for every number of threads, which norms are not.
Costs a few milliseconds for ten million weights on a CPU, and is taken twice per loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["UNKNOWN", "fingerprints"]

UNKNOWN = -(1 << 63)  # for tensors that hold no values (meta), or none that can be read as bits
_SMALL = 2048  # elements
_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprints(tensors: Sequence[torch.Tensor], dtypes: Sequence[torch.dtype]) -> torch.Tensor:
    """A wrapping sum of the bits of each tensor, as it is when cast to its dtype, and the bits of one element.

    The element is there for what leaves the sum as it was: a changed sign of all of an even number of elements.
    Returns (len(tensors), 2), int64, on the CPU.
    """
    groups: dict[tuple[torch.device, torch.dtype, bool], tuple[list[int], list[torch.Tensor]]] = {}
    for i, (tensor, dtype) in enumerate(zip(tensors, dtypes, strict=True)):
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or not tensor.numel():
            continue
        real = tensor if tensor.dtype == dtype else tensor.to(dtype)
        if real.is_complex():
            real = torch.view_as_real(real)
        bits = real.detach().view(_INTEGER[real.element_size()])
        where, members = groups.setdefault((bits.device, bits.dtype, bits.numel() <= _SMALL), ([], []))
        where.append(i)
        members.append(bits)
    result = torch.full((len(tensors), 2), UNKNOWN, device="cpu")
    for (_, dtype, small), (where, members) in groups.items():
        sum_dtype = torch.int64 if dtype == torch.int64 else torch.int32
        result[where] = (_of_small if small else _of_large)(members, sum_dtype).long().cpu()
    return result


def _of_large(bits: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    elements = [b[tuple([n // 2 for n in b.shape])] for b in bits]
    return torch.stack([torch.stack([b.sum(dtype=dtype) for b in bits]), torch.stack(elements).to(dtype)], 1)


def _of_small(bits: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """All in one go: most tensors of a network are small, and calls of kernels would be most of the time."""
    flat = torch.cat([b.flatten() for b in bits])
    sizes = torch.tensor([b.numel() for b in bits], device="cpu")
    ends = sizes.cumsum(0)
    middles, lasts = (ends - sizes + sizes // 2).to(flat.device), (ends - 1).to(flat.device)
    up_to = flat.cumsum(0, dtype=dtype)[lasts]
    return torch.stack([up_to.diff(prepend=up_to.new_zeros(1)), flat[middles].to(dtype)], 1)
