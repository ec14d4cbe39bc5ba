"""Solvers: frozen settings with pure `init` and `step`, and the loop `integrate`."""

from __future__ import annotations

from adjointdpm.errors import InvalidInput
from adjointdpm.solvers.adams import AdamsBashforth, adams_weights
from adjointdpm.solvers.adaptive import Dopri5
from adjointdpm.solvers.base import Solver, SolverState, StepCallback, integrate
from adjointdpm.solvers.belm import OBELM
from adjointdpm.solvers.brownian import BrownianPath
from adjointdpm.solvers.dpmpp import DPMpp2M
from adjointdpm.solvers.sde import Ancestral, EulerMaruyama
from adjointdpm.solvers.tableau import DOPRI5, EULER, HEUN, RK4, RungeKutta

__all__ = [
    "DOPRI5",
    "EULER",
    "HEUN",
    "OBELM",
    "RK4",
    "SOLVERS",
    "AdamsBashforth",
    "Ancestral",
    "BrownianPath",
    "DPMpp2M",
    "Dopri5",
    "EulerMaruyama",
    "RungeKutta",
    "Solver",
    "SolverState",
    "StepCallback",
    "adams_weights",
    "integrate",
    "make_solver",
]

SOLVERS: dict[str, Solver] = {
    "euler": EULER,
    "ddim": EULER,
    "heun": HEUN,
    "rk4": RK4,
    **{f"ab{k}": AdamsBashforth(k) for k in (1, 2, 3, 4)},
    "dpmpp2m": DPMpp2M(),
    "belm": OBELM(),
    "euler_maruyama": EulerMaruyama(),
    "ancestral": Ancestral(),
    "dopri5": Dopri5(),
}


def make_solver(solver: str | Solver) -> Solver:
    """A solver by name, or the one passed.  Raises InvalidInput for an unknown name."""
    if isinstance(solver, Solver):
        return solver
    if solver not in SOLVERS:
        raise InvalidInput(f"solver={solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
    return SOLVERS[solver]
