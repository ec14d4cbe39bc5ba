"""Plain backprop through the sampler: every network graph is kept.  The yardstick; memory grows with the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adjointdpm.gradients.base import Engine, SolveSpec
from adjointdpm.solvers import integrate

__all__ = ["Full"]


@dataclass(frozen=True)
class Full(Engine):
    """Autograd's own graph of the whole solve."""

    name: ClassVar[str] = "full"
    exact: ClassVar[bool] = True

    def solve(self, spec: SolveSpec) -> Tensor:
        return integrate(spec.solver, spec.ode, spec.x, spec.grid, spec.on_step)
