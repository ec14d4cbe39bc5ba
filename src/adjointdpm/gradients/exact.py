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

import torch
from torch import Tensor

from adjointdpm.gradients.base import Engine, SolveSpec
from adjointdpm.replay import Budget, Norms, replay
from adjointdpm.replay.budget import parse_memory
from adjointdpm.solvers import integrate

__all__ = ["Exact"]


@dataclass(frozen=True)
class Exact(Engine):
    """Exact gradients with one network graph alive, or as many as a memory budget has room for.

    Args:
        memory: bytes for everything on the device ("6GB", 2e9, "auto", a `replay.Budget`); None keeps the last graph.
        norms: measure the gradient's norm at each network call in backward: `stats.backward()["norms"]`, last call
            first; a NaN is then reported with the call where it arose.
        clip: largest norm of the gradient that enters a call in backward; the result is then no longer exact.
        accumulate: dtype in which gradients of bfloat16 and float16 weights are summed over the calls.

    Raises:
        InvalidInput: a value that `replay` does not take.
    """

    memory: int | float | str | Budget | None = None
    norms: bool = False
    clip: float | None = None
    accumulate: torch.dtype | None = None
    name: ClassVar[str] = "exact"
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Norms(self.clip)
        if self.memory is not None and not isinstance(self.memory, Budget):
            parse_memory(self.memory)

    def solve(self, spec: SolveSpec) -> Tensor:
        norms = Norms(self.clip) if self.norms or self.clip is not None else None
        with replay(spec.model.denoiser.network, memory=self.memory, norms=norms, accumulate=self.accumulate) as record:
            spec.stats.backward = lambda: {
                "vjps": record.stats.vjps,
                "recomputations": record.stats.recomputations,
                **({} if norms is None else {"norms": list(norms.profile)}),
            }
            return integrate(spec.solver, spec.ode, spec.x, spec.grid, spec.on_step)
