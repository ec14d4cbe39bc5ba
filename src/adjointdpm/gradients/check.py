"""`ad.check_gradients`: is the gradient that I get the gradient of what I computed?

Two questions in one call.  For any function of tensors that returns a scalar (a sampling loop of one's own under
`ad.replay`, say): does the gradient agree with a directional finite difference, and with plain backprop through a
`reference` where one is given?  For a generator from `ad.differentiable`: does each gradient engine agree with plain
backprop of the same call (`gradients.check_generator`)?  Oddities are named: a gradient that is missing, zero or not
finite, and a function that gives another value when it is called again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput
from adjointdpm.gradients.check_generator import check_generator, is_generator
from adjointdpm.gradients.check_report import GradientReport, Row
from adjointdpm.gradients.measure import (
    Groups,
    Measured,
    compare,
    finite_difference_row,
    gradient_of,
    oddities,
    tolerance_for,
)

__all__ = ["GradientReport", "Row", "check_generator", "check_gradients"]

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


def check_gradients(
    fn: Any,
    inputs: Inputs | str | None = None,
    *,
    reference: Callable[..., Tensor] | None = None,
    weights: nn.Module | Mapping[str, Tensor] | None = None,
    directions: int = 3,
    seed: int = 0,
    meter: bool = True,
    **settings: Any,
) -> GradientReport:
    """Check the gradients of a function, or of each engine of a generator.

    Args:
        fn: a function of tensors returning one real number, differentiable by autograd; or a generator
            (`ad.differentiable(pipe)`), for which see `check_generator`: `inputs` is then its prompt (or a mapping of
            arguments of its call) and further keywords (`steps=`, `engines=`, `wrt=` ...) go there.
        inputs: what `fn` takes: a tensor, a sequence (positional) or a mapping (by name).  Tensors that require grad
            are checked, or, if none does, every floating one; they are copied, never changed.
        reference: the same function by plain backprop, called with the same inputs; its gradient is the measure.
        weights: a module, or tensors by name, that `fn` uses beside its inputs: those that require grad are checked as
            one group.  They are shifted in place for the finite difference and put back bit for bit.
        directions: how many directions of finite difference for each input (the first is the gradient's own).
        seed: seed of the random directions; the global random state is not touched.
        meter: whether to measure the peak of live tensor bytes in one more forward and backward.

    Returns:
        `GradientReport`: `.rows`, `.ok`, `.verdict`, `.table()`, `.as_dict()`.

    Raises:
        InvalidInput: `fn` does not return a real scalar with a graph, or there is nothing to differentiate.
        NonFinite: `fn` returns NaN or an infinity.
    """
    if is_generator(fn):
        call = {"prompt": inputs} if isinstance(inputs, str) else dict(inputs) if isinstance(inputs, Mapping) else {}
        if inputs is not None and not call:
            raise InvalidInput(f"a generator takes a prompt or a mapping of arguments, not {type(inputs).__name__}")
        if reference is not None or weights is not None:
            raise InvalidInput("reference= and weights= are for functions; a generator has its own plain backprop")
        return check_generator(fn, directions=directions, seed=seed, meter=meter, **call, **settings)
    if settings:
        known = "reference, weights, directions, seed, meter"
        raise InvalidInput(f"unknown arguments {sorted(settings)}; for a function: {known}")
    if not callable(fn):
        raise InvalidInput(f"expected a function or a generator to check, got {type(fn).__name__}")
    if not isinstance(directions, int) or directions < 1:
        raise InvalidInput(f"directions must be a whole number of at least 1, got {directions!r}")
    call_with, groups = _prepare(inputs, weights)
    return _check_function(
        lambda: call_with(fn), reference and (lambda: call_with(reference)), groups, directions, seed, meter
    )


def _check_function(
    fn: Callable[[], Tensor],
    reference: Callable[[], Tensor] | None,
    groups: Groups,
    directions: int,
    seed: int,
    meter: bool,
) -> GradientReport:
    base = gradient_of(fn, groups)
    again = gradient_of(fn, groups, meter=meter)
    problems, rows = _repeatability(base, again), []
    if reference is not None:
        want = gradient_of(reference, groups, "the reference")
        if abs(want.loss - base.loss) > 1e-4 * max(abs(want.loss), abs(base.loss)):
            problems.append(f"The reference returns {want.loss:.6g} where the function returns {base.loss:.6g}.")
        for wrt, group in groups.items():
            error, cosine, note = compare(base, want, wrt)
            tolerance = tolerance_for(group[0].dtype, against="reference")
            peak = again.peak_bytes / 2**20
            rows.append(
                Row("gradient", wrt, error, cosine, base.seconds, peak, "reference", tolerance=tolerance, note=note)
            )
    for wrt in groups:
        rows.append(finite_difference_row(fn, groups, wrt, base, directions=directions, seed=seed))
        odd = oddities(base.gradients[wrt])
        if "NaN" in odd or ("zero" in odd and not rows[-1].passed):
            problems.append(f"{wrt}: {odd}.")
    return GradientReport(tuple(rows), tuple(problems), facts={"loss": base.loss})


def _repeatability(first: Measured, second: Measured) -> list[str]:
    """Says so if two runs of the same thing differ by more than the order of summation explains."""
    if first.loss != second.loss:
        return [
            f"Two calls with the same inputs returned {first.loss:.9g} and {second.loss:.9g}: the function draws "
            "random numbers, keeps a state or uses non-deterministic kernels; give it a seeded generator, or see "
            "torch.use_deterministic_algorithms."
        ]
    found = []
    for wrt in first.gradients:
        error, _, _ = compare(first, second, wrt)
        if error > 1e-3:
            found.append(f"Two calls gave the same value but gradients for {wrt} that differ by {error:.1e}.")
    return found


def _prepare(
    inputs: Inputs | str | None, weights: nn.Module | Mapping[str, Tensor] | None
) -> tuple[Callable[[Callable[..., Tensor]], Tensor], Groups]:
    """Copies of the inputs to call a function with, and the named groups of what is differentiated."""
    if isinstance(inputs, Tensor):
        given: dict[str, Any] = {"input": inputs}
    elif isinstance(inputs, Mapping):
        given = dict(inputs)
    elif inputs is None or (isinstance(inputs, Sequence) and not isinstance(inputs, str)):
        given = {f"input {i}": value for i, value in enumerate(inputs or ())}
    else:
        raise InvalidInput(f"inputs must be a tensor, a sequence or a mapping of them, got {type(inputs).__name__}")
    floating = {k: v for k, v in given.items() if isinstance(v, Tensor) and v.is_floating_point()}
    asked = {k: v for k, v in floating.items() if v.requires_grad} or floating
    for name, tensor in asked.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(f"{name} of shape {tuple(tensor.shape)} holds NaN or infinities")
        given[name] = tensor.detach().clone().requires_grad_(True)
    groups: dict[str, list[Tensor]] = {name: [given[name]] for name in asked}
    named = weights.named_parameters() if isinstance(weights, nn.Module) else (weights or {}).items()
    trainable = [tensor for _, tensor in named if tensor.requires_grad]
    if weights is not None and not trainable:
        raise InvalidInput("none of the weights requires grad: call requires_grad_(True) on those to check")
    if trainable:
        groups["weights"] = trainable
    if not groups:
        raise InvalidInput("nothing to differentiate: inputs holds no floating-point tensor and no weights were given")
    by_name = isinstance(inputs, Mapping)
    values = list(itertools.chain(given.values()))

    def call_with(fn: Callable[..., Tensor]) -> Tensor:
        return fn(**given) if by_name else fn(*values)

    return call_with, groups
