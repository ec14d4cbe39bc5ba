"""Cheaper, biased gradients: only some of the network calls are differentiated.

- `Truncated(k)`: the last k steps (DRaFT-K; Clark et al. 2024).
- `RandomTruncation()`: the last k steps, k drawn anew for each solve from 1 to all of them (AlignProp; Prabhudesai et
  al. 2023).
- `OneStep()`: one network call for the whole chain: the solve's result, with the derivative of the x_0-hat that the
  network predicts at the first node (the shortcut of SDO; Dai et al. 2023).  The only one that reaches x_T.

The first two say nothing of x_T: no gradient passes the steps that are left out, so x_T with a gradient is refused.
All others are of use where training is long and the bias does no harm; each solve warns, with the error that a gradient
check found on this network in this process, if there was one.
"""

from __future__ import annotations

import warnings
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput, NumericalWarning, UnreachedGradient
from adjointdpm.gradients.augmented import differentiated
from adjointdpm.gradients.base import Engine, SolveSpec
from adjointdpm.replay import replay
from adjointdpm.solvers import integrate

__all__ = ["OneStep", "RandomTruncation", "Truncated", "note_bias"]

_measured: weakref.WeakKeyDictionary[nn.Module, dict[str, str]] = weakref.WeakKeyDictionary()


def note_bias(network: nn.Module, engine: str, finding: str) -> None:
    """Remember what a check found about an engine on a network, for the warning at the next use."""
    _measured.setdefault(network, {})[engine] = finding


class _Biased(Engine):
    exact: ClassVar[bool] = False

    def warn(self, spec: SolveSpec) -> None:
        if not torch.is_grad_enabled():
            return
        network = spec.model.denoiser.network
        known = [_measured.get(m, {}).get(self.name) for m in network.modules()]
        found = next((finding for finding in known if finding), None)
        says = f"a check on this network found it {found}" if found else "ad.check_gradients measures by how much"
        warnings.warn(
            f'gradient="{self.name}" is biased: it is not the gradient of the sampler ({says})',
            NumericalWarning,
            stacklevel=2,
        )


class _LastSteps(_Biased):
    """The last steps, each replayed in backward."""

    def check(self, spec: SolveSpec) -> None:
        super().check(spec)
        if spec.x.requires_grad and torch.is_grad_enabled() and self.surely_cut(spec):
            raise UnreachedGradient(
                f'x_T requires grad, but gradient="{self.name}" leaves out the first steps, so its gradient would be '
                'zero: use gradient="exact", or "one_step" for a cheap and biased one'
            )
        if spec.grid.t.requires_grad:
            raise UnreachedGradient(f'times require grad, which gradient="{self.name}" cannot give: use "exact"')

    def surely_cut(self, spec: SolveSpec) -> bool:
        return True

    def solve_last(self, spec: SolveSpec, k: int) -> Tensor:
        first = max(spec.grid.steps - k, 0)
        if first:
            self.warn(spec)
        with replay(spec.model.denoiser.network) as record:
            spec.stats.backward = lambda: {
                "vjps": record.stats.vjps,
                "recomputations": record.stats.recomputations,
                "steps": spec.grid.steps - first,
            }
            return integrate(spec.solver, spec.ode, spec.x, spec.grid, spec.on_step, recorded_from=first)


@dataclass(frozen=True)
class Truncated(_LastSteps):
    """The gradient through the last `k` steps alone; exact if there are no more.

    Raises:
        InvalidInput: k is not a whole number of at least 1.
    """

    k: int = 1
    name: ClassVar[str] = "truncated"

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise InvalidInput(f"k must be a whole number of steps, at least 1, got {self.k!r}")

    def surely_cut(self, spec: SolveSpec) -> bool:
        return self.k < spec.grid.steps

    def solve(self, spec: SolveSpec) -> Tensor:
        return self.solve_last(spec, self.k)


@dataclass(frozen=True)
class RandomTruncation(_LastSteps):
    """The gradient through the last k steps, k uniform in 1 ... steps and drawn anew for each solve.

    Args:
        generator: source of k (on the CPU); torch's own by default.
    """

    generator: torch.Generator | None = None
    name: ClassVar[str] = "random_truncation"

    def solve(self, spec: SolveSpec) -> Tensor:
        k = int(torch.randint(1, spec.grid.steps + 1, (), generator=self.generator))
        return self.solve_last(spec, k)


@dataclass(frozen=True)
class OneStep(_Biased):
    """The sampler's result with the derivative of x_0-hat at the first node, one network call."""

    name: ClassVar[str] = "one_step"

    def check(self, spec: SolveSpec) -> None:
        super().check(spec)
        if spec.grid.t.requires_grad:
            raise UnreachedGradient('times require grad, which gradient="one_step" cannot give: use "exact"')

    def solve(self, spec: SolveSpec) -> Tensor:
        with torch.no_grad():
            out = integrate(spec.solver, spec.ode, spec.x, spec.grid, spec.on_step)
        call, weights = differentiated(spec.model)
        if not torch.is_grad_enabled() or not (spec.x.requires_grad or call or weights):
            return out
        self.warn(spec)
        counts: dict[str, Any] = {"vjps": 0, "recomputations": 0}
        t = spec.grid.t[0]
        guess = spec.ode.to_data(spec.ode.to_state(spec.x, t), t)
        spec.stats.backward = lambda: counts
        if guess.requires_grad:
            guess.register_hook(lambda _: counts.update(vjps=1))  # type: ignore[no-untyped-call]
        return guess + (out - guess).detach()  # the value of `out` to rounding, the derivative of `guess`
