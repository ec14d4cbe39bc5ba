"""The augmented system of the adjoint method (paper eq. 8, 9, 12): the field, its transpose, and the running integrals.

Beside the state z with dz/du = F(z, u; c, theta) stands the adjoint a = dL/dz with da/du = -(dF/dz)^T a, and every
other gradient is an integral along the way, dL/d theta = int a^T dF/d theta du.  The integrals feed nothing back, so
they are a quadrature, accumulated in place with the weights of the method that solves for a, and never a part of the
ODE's state: one copy of the weights' gradient, whatever the method.

A weight of the quadrature may be zero or negative (multistep methods on uneven grids), so it multiplies what a
vector-Jacobian product gives and must not go into the cotangent.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adjointdpm.models import Counter, GuidedDenoiser
from adjointdpm.models.tree import tree_map
from adjointdpm.ode import ODE
from adjointdpm.replay.accumulate import large

__all__ = ["Augmented", "Linearization", "differentiated"]


def differentiated(model: GuidedDenoiser) -> tuple[list[Tensor], list[Tensor]]:
    """What a solve may have to differentiate beside its state: tensors of the call (conditioning, guidance), weights.

    Both lists have a fixed order, which `Augmented` relies on.
    """
    call: list[Tensor] = []
    trees = (model.cond, model.uncond if model.guided else None, model.guidance if model.guided else None)
    for tree in trees:
        tree_map(lambda leaf: call.append(leaf) if _wants_grad(leaf) else None, tree)
    network = model.denoiser.network
    return call, [p for p in (*network.parameters(), *network.buffers()) if p.requires_grad]


def _wants_grad(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


class Augmented:
    """The field of `ode` with conditioning and guidance as fresh leaves, and the integrals that were asked for.

    Args:
        ode: the ODE of the forward; it and its model are left alone.
        call, weights: as `differentiated(model)` listed them.
        wanted: which of `[*call, *weights]` need a gradient.
    """

    def __init__(self, ode: ODE, call: Sequence[Tensor], weights: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        leaf_of = {id(tensor): tensor.detach().requires_grad_(True) for tensor in call}
        model = copy.copy(ode.model)
        assert isinstance(model, GuidedDenoiser)
        model.counter = Counter()
        model.cond, model.uncond, model.guidance = (
            tree_map(lambda leaf: leaf_of.get(id(leaf), leaf), tree)
            for tree in (model.cond, model.uncond, model.guidance)
        )
        self.ode: ODE = replace(ode, model=model)
        self.counter: Counter = model.counter
        everything = [*(leaf_of[id(tensor)] for tensor in call), *weights]
        self.slots = [i for i, want in enumerate(wanted) if want]
        self.leaves = [everything[i] for i in self.slots]
        self.integrals: list[Tensor | None] = [None] * len(self.leaves)
        self._large = frozenset(i for i, leaf in enumerate(self.leaves) if large(leaf))
        self.vjps = 0

    def linearize(self, z: Tensor, t: Tensor, towards: Tensor) -> Linearization:
        """F at z and t with its graph."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            return Linearization(self, leaf, self.ode.field(leaf, t, towards), t, self.ode.mixture(t, towards))

    def data_step(self, z: Tensor, t: Tensor) -> Linearization:
        """The last explicit step, z -> x_0-hat, with its graph: it is differentiated as it is, not as an ODE."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            return Linearization(self, leaf, self.ode.to_data(leaf, t), t, (1.0, 0.0))

    def field(self, z: Tensor, t: Tensor, towards: Tensor) -> Tensor:
        """F at z and t, without a graph."""
        with torch.no_grad():
            return self.ode.field(z, t, towards)

    def gradients(self, count: int) -> list[Tensor | None]:
        """The integrals in the order of the `count` tensors, None where one was not wanted or not reached."""
        found: list[Tensor | None] = [None] * count
        for slot, leaf, integral in zip(self.slots, self.leaves, self.integrals, strict=True):
            found[slot] = None if integral is None else integral.to(leaf.dtype)
        return found

    def pull(self, out: Tensor, z: Tensor, a: Tensor, weight: float, keep: bool) -> Tensor | None:
        """(d out / dz)^T a; integrals += weight * (d out / d leaves)^T a, in place and in float32 at least.

        Gradients of large leaves are added by hooks as they arise: all of them at once would be a second copy.
        """
        handles = [self.leaves[i].register_hook(partial(self._take, i, weight)) for i in self._large]  # type: ignore[no-untyped-call]
        try:
            found = torch.autograd.grad(out, [z, *self.leaves], a, retain_graph=keep, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        self.vjps += 1
        for i, part in enumerate(found[1:]):
            if part is not None and i not in self._large:
                self._add(i, weight, part)
        return found[0]

    def _take(self, i: int, weight: float, part: Tensor) -> Tensor:
        self._add(i, weight, part)
        return part.new_zeros(()).expand_as(part)

    def _add(self, i: int, weight: float, part: Tensor) -> None:
        if (total := self.integrals[i]) is None:
            dtype = torch.promote_types(part.dtype, torch.float32)
            self.integrals[i] = part.to(dtype, copy=True).mul_(weight)
        else:
            total.add_(part, alpha=weight)


class Linearization:
    """F at one point with the one network graph that is alive; `pull` is its transpose."""

    def __init__(self, system: Augmented, leaf: Tensor, out: Tensor, t: Tensor, side: tuple[Any, Any]) -> None:
        self._system, self._leaf, self._out, self._t, self._side = system, leaf, out, t, side
        self.field = out.detach()

    def pull(self, a: Tensor, weight: float, *, keep: bool = False) -> Tensor:
        """(dF/dz)^T a; adds `weight` * a^T dF/d theta to the integrals.  With `keep` the graph serves again."""
        system = self._system
        if not self._out.requires_grad:
            return torch.zeros_like(a)
        a = a.to(self._out.dtype)
        found = system.pull(self._out, self._leaf, a, weight, keep)
        return torch.zeros_like(a) if found is None else found

    def is_at(self, t: Tensor, towards: Tensor) -> bool:
        """Whether this is F at time t on that side of it (the raw form has kinks on a discrete schedule)."""
        return bool(t == self._t) and all(
            float(a) == float(b) for a, b in zip(self._side, self._system.ode.mixture(t, towards), strict=True)
        )
