"""Forward mode: the derivative of a sampling computation along one direction, at the memory of plain sampling.

A vector-Jacobian product gives the gradient to everything at once and needs a backward; a Jacobian-vector product
carries one direction along in the forward.  It is the better one for problems of few numbers (a guidance scale, two
times of a grid) with many outputs, and for testing a gradient along a direction without the rounding of a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from adjointdpm.errors import InvalidInput, NotDifferentiable

__all__ = ["jvp"]

T = TypeVar("T")
_dual: Any = forward_ad.make_dual
_parts: Any = forward_ad.unpack_dual


def jvp(fn: Callable[..., T], inputs: Sequence[Tensor], directions: Sequence[Tensor]) -> tuple[T, T]:
    """Value and directional derivative of `fn(*inputs)` along `directions`, by forward-mode differentiation.

        x0, dx0 = jvp(lambda z, s: ad.sample(net, z, guidance=s, uncond=empty).x0, (z, scale), (dz, dscale))

    Costs about two to three forwards and no more memory than two of them, however many steps `fn` takes; nothing is
    recorded for backward.  Attention runs on its plain ("math") kernel meanwhile, the only one that knows forward mode.

    Args:
        fn: a function of tensors that returns a tensor, or a tree of dicts, lists and tuples of tensors.
        inputs: its floating arguments, any shapes.
        directions: a tensor of the shape and dtype of each input; zeros for those that stay fixed.

    Returns:
        (value, derivative), of the structure that `fn` returns.

    Raises:
        InvalidInput: directions do not fit the inputs.
        NotDifferentiable: an operation in `fn` has no forward-mode derivative; names it.
    """
    if len(inputs) != len(directions):
        raise InvalidInput(f"{len(inputs)} inputs and {len(directions)} directions: expected one for each input")
    for i, (value, direction) in enumerate(zip(inputs, directions, strict=True)):
        if not value.is_floating_point() or value.shape != direction.shape or value.dtype != direction.dtype:
            raise InvalidInput(
                f"direction {i} is {tuple(direction.shape)} of {direction.dtype}, but its input is "
                f"{tuple(value.shape)} of {value.dtype}"
            )
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        duals = [_dual(v.detach(), d.detach()) for v, d in zip(inputs, directions, strict=True)]
        try:
            out: Any = fn(*duals)
        except (NotImplementedError, RuntimeError) as error:
            if "forward AD" in str(error) or "forward mode" in str(error):
                raise NotDifferentiable(f"an operation has no forward-mode derivative: {error}") from error
            raise
        return tree_map(_value, out), tree_map(_derivative, out)


def _value(leaf: Any) -> Any:
    return _parts(leaf).primal.clone() if isinstance(leaf, Tensor) else leaf


def _derivative(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    found = _parts(leaf).tangent
    return torch.zeros_like(leaf) if found is None else found.clone()
