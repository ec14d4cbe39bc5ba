"""The discrete adjoint of the sampler that was run, at constant memory.

s_{n+1} = Phi_n(s_n, c, theta) gives lambda_n = (d Phi_n / d s_n)^T lambda_{n+1} and g_theta += (d Phi_n / d theta)^T
lambda_{n+1}.  Phi_n is linear in the state and in the network's outputs, so autograd keeps nothing for it but the
outline; what is large is the network's graph.  So the network's calls, and they alone, go through `replay`: the forward
keeps the input of each call (every Runge-Kutta stage has its own), and backward runs one call at a time again.  Cost: N
forwards, N - 1 recomputations (the last call's graph stays alive) and N vector-Jacobian products for N network calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adjointdpm.gradients.base import Engine, SolveSpec
from adjointdpm.replay import replay
from adjointdpm.solvers import integrate

__all__ = ["Exact"]


@dataclass(frozen=True)
class Exact(Engine):
    """Exact gradients with one network graph alive."""

    name: ClassVar[str] = "exact"
    exact: ClassVar[bool] = True

    def solve(self, spec: SolveSpec) -> Tensor:
        with replay(spec.model.denoiser.network) as record:
            spec.stats.backward = lambda: {"vjps": record.stats.vjps, "recomputations": record.stats.recomputations}
            return integrate(spec.solver, spec.ode, spec.x, spec.grid, spec.on_step)
