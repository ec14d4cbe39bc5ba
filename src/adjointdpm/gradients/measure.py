"""One measured gradient of a scalar function, and the comparison of two: what every check is made of.

What is differentiated comes in named groups of leaf tensors (`{"x_T": [latents], "weights": [...]}`), because errors
are stated per group and a function may close over some of them (a network's weights) instead of taking them as
arguments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NonFinite
from adjointdpm.gradients.check_report import Row
from adjointdpm.gradients.finite_difference import directional_derivative, directions_for, ladder_for
from adjointdpm.numerics import LiveTensorMeter

__all__ = [
    "Groups",
    "Measured",
    "compare",
    "finite_difference_row",
    "gradient_of",
    "shifted",
    "tolerance_for",
    "value_of",
]

Groups = Mapping[str, Sequence[Tensor]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Loss, gradient per group (None where autograd found no path), seconds, peak bytes (NaN where not measured)."""

    loss: float
    gradients: dict[str, list[Tensor | None]]
    seconds: float
    peak_bytes: float = math.nan


def tolerance_for(dtype: torch.dtype, *, against: str) -> float:
    """Relative error that two right gradients may differ by: of one formula in another order, or of a difference."""
    tight = {torch.float64: 1e-10, torch.float32: 1e-5}.get(dtype, 2e-2)
    loose = {torch.float64: 1e-6, torch.float32: 1e-2}.get(dtype, 1e-1)
    return loose if against == "finite difference" else tight


def value_of(fn: Callable[[], Tensor], name: str) -> Tensor:
    """Call `fn` and insist on a finite real scalar tensor."""
    loss = fn()
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        got = f"a tensor {tuple(loss.shape)} of {loss.dtype}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InvalidInput(f"{name} must return one real number as a tensor, got {got}; reduce it, e.g. by .mean()")
    if not bool(torch.isfinite(loss)):
        raise NonFinite(f"{name} returned {loss.item()}; gradients of it mean nothing. Check its inputs for NaN first")
    return loss


def gradient_of(
    fn: Callable[[], Tensor], groups: Groups, name: str = "the function", *, meter: bool = False
) -> Measured:
    """Loss and gradients of one forward and backward; with `meter` also the peak of live tensor bytes (slower)."""
    leaves = [leaf for group in groups.values() for leaf in group]
    watch = LiveTensorMeter() if meter else contextlib.nullcontext()
    start = time.perf_counter()
    with watch, torch.enable_grad():
        loss = value_of(fn, name)
        if not loss.requires_grad:
            raise InvalidInput(
                f"the value of {name} has no graph to any of {sorted(groups)}: is it computed under torch.no_grad(), "
                "detached, or independent of them?"
            )
        found: Iterator[Tensor | None] = iter(torch.autograd.grad(loss, leaves, allow_unused=True))
        _wait_for(leaves)
    seconds = time.perf_counter() - start
    gradients = {wrt: [next(found) for _ in group] for wrt, group in groups.items()}
    peak = float(watch.peak_bytes) if isinstance(watch, LiveTensorMeter) else math.nan
    return Measured(float(loss.detach()), gradients, seconds, peak)


def compare(got: Measured, want: Measured, wrt: str) -> tuple[float, float, str]:
    """Relative l2 error and cosine over one group, and what is odd about it in words (missing, NaN, zero)."""
    pairs = list(zip(got.gradients[wrt], want.gradients[wrt], strict=True))
    note = oddities([g for g, _ in pairs])
    difference = product = size_got = size_want = 0.0
    for g, w in pairs:  # tensor by tensor: weights are many, and one flat float64 copy of all would double them
        zero = torch.zeros((), dtype=torch.float64, device="cpu")
        left = zero if g is None else g.detach().to("cpu", torch.float64)
        right = zero if w is None else w.detach().to("cpu", torch.float64)
        difference += float((left - right).square().sum())
        product += float((left * right).sum())
        size_got += float(left.square().sum())
        size_want += float(right.square().sum())
    if size_want == 0.0:
        return (0.0 if size_got == 0.0 else math.inf), (1.0 if size_got == 0.0 else 0.0), note
    return math.sqrt(difference / size_want), product / math.sqrt(size_want * size_got) if size_got else 0.0, note


def oddities(gradients: Sequence[Tensor | None]) -> str:
    """Names what no correct and useful gradient has."""
    missing = sum(g is None for g in gradients)
    present = [g for g in gradients if g is not None]
    bad = sum(int((~torch.isfinite(g)).sum()) for g in present)
    notes = []
    if bad:
        notes.append(f"{bad} of {sum(g.numel() for g in present)} gradient entries are NaN or infinite")
    if missing == len(gradients):
        notes.append("not reached by autograd")
    elif not bad and not any(bool(g.detach().ne(0).any()) for g in present):
        notes.append("gradient is exactly zero")
    elif missing:
        notes.append(f"{missing} of {len(gradients)} tensors not reached by autograd")
    return "; ".join(notes)


def finite_difference_row(
    fn: Callable[[], Tensor],
    groups: Groups,
    wrt: str,
    base: Measured,
    *,
    directions: int,
    seed: int,
    rounding: torch.dtype | None = None,
) -> Row:
    """Holds `base`'s gradient for one group against central differences along `directions` directions.

    `rounding` is the dtype that limits the precision of `fn`, where that is coarser than that of the group itself.
    """
    group = list(groups[wrt])
    dtype = min((leaf.dtype for leaf in group), key=lambda d: -torch.finfo(d).eps)
    if rounding is not None and torch.finfo(rounding).eps > torch.finfo(dtype).eps:
        dtype = rounding
    gradient = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(group, base.gradients[wrt], strict=True)]
    count = sum(leaf.numel() for leaf in group)
    size = math.sqrt(sum(float(leaf.detach().double().square().sum()) for leaf in group) / count) or 1.0
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradient))
    ladder = ladder_for(dtype)
    resolution = torch.finfo(dtype).eps * max(abs(base.loss), torch.finfo(dtype).tiny)
    errors, noises, measured, predicted = [], [], [], []
    start = time.perf_counter()
    for direction in directions_for(gradient, directions, seed):

        def along(h: float, direction: list[Tensor] = direction) -> float:
            with shifted(group, direction, h):
                return float(fn().detach())

        found = directional_derivative(along, ladder, size=size, resolution=resolution, floor=norm)
        slope = sum(float((g.double() * v.double()).sum()) for g, v in zip(gradient, direction, strict=True))
        scale = max(abs(slope), abs(found.value), norm)  # a random direction of this length has a slope of about norm
        errors.append(abs(found.value - slope) / scale if scale else 0.0)
        noises.append(found.noise / scale if scale else 0.0)
        measured.append(found.value)
        predicted.append(slope)
    worst = max(range(len(errors)), key=lambda i: errors[i] if math.isfinite(errors[i]) else math.inf)
    sizes = math.hypot(*measured) * math.hypot(*predicted)
    cosine = sum(a * b for a, b in zip(measured, predicted, strict=True)) / sizes if sizes else 1.0
    return Row(
        "gradient", wrt, errors[worst], cosine, time.perf_counter() - start, math.nan,
        against="finite difference", noise=noises[worst],
        tolerance=tolerance_for(dtype, against="finite difference"), note=oddities(base.gradients[wrt]),
    )  # fmt: skip


@contextlib.contextmanager
def shifted(group: Sequence[Tensor], direction: Sequence[Tensor], h: float) -> Iterator[None]:
    """The leaves moved by h * direction in place, and put back bit for bit afterwards."""
    kept = [leaf.detach().clone() for leaf in group]
    try:
        with torch.no_grad():
            for leaf, v in zip(group, direction, strict=True):
                leaf.add_(v.to(leaf), alpha=h)
        yield
    finally:
        with torch.no_grad():
            for leaf, old in zip(group, kept, strict=True):
                leaf.copy_(old)


def _wait_for(tensors: Sequence[Tensor]) -> None:
    if any(t.is_cuda for t in tensors):
        torch.cuda.synchronize()
