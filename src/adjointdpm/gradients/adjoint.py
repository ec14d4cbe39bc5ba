"""The paper's method: gradients by solving the augmented ODE backward (algorithms 1-3; eq. 9 raw, eq. 12 exponential).

The forward keeps no graph.  Backward starts from dL/dx at the last node and solves da/du = -(dF/dz)^T a to the noise
end, on the exponential form from a(rho_0) = alpha_0 dL/dx_0 to dL/dx_T = a(rho_T) / alpha_T, and gathers the
gradients for conditioning, guidance and weights on the way (`gradients.augmented`).  One network graph is alive at a
time.

This is the gradient of the *continuous* ODE.  The sampler that was run is a discretisation of it, so the result differs
from the gradient of that sampler (`gradient="exact"`) by the errors of both solves: with an Euler forward it is of
first order whatever the backward does.  It is here as the paper's method and to be compared with; `exact` costs less.

A last step to sigma = 0 is an explicit step, not an ODE, and is differentiated as it is; the continuous adjoint
starts at the end time before it.  Where the forward solver has no ODE step of its own (dpmpp2m extrapolates in the
log-SNR), the exponential form, which it is a method for, is solved backward.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NumericalWarning, UnreachedGradient
from adjointdpm.gradients.augmented import Augmented
from adjointdpm.gradients.backward import Backward
from adjointdpm.gradients.base import Engine, SolveSpec
from adjointdpm.gradients.unrecorded import UnrecordedSolve, solve_unrecorded
from adjointdpm.schedules import Grid
from adjointdpm.solvers import AdamsBashforth, RungeKutta, SolverState, integrate, make_solver

__all__ = ["Adjoint"]

BackwardSolver = Literal["euler", "heun", "rk4", "ab1", "ab2", "ab3", "ab4"]
#: `Backward.local_error` above which the gradient is warned of.
HOPELESS = 2.0


@dataclass(frozen=True)
class Adjoint(Engine):
    """The continuous adjoint.

    Args:
        backward_solver: "rk4" (default: Runge-Kutta in each interval, stable on every grid), "heun", "euler", or
            "ab1" to "ab4" over the reversed grid (one evaluation a step, RK4 start; unstable where the steps grow
            quickly towards the noise, as logSNR and Karras grids of few steps do).
        trajectory: "stored" takes the states from the forward, "resolved" solves for them again, backward.
        preset: "paper" for the paper's own combination: AB4, trajectory solved again, on the exponential form.  The
            recipe that was released with the paper is another: torchdiffeq's `odeint_adjoint` over the whole grid
            restarts its solver in every interval, from the state stored at the node, so its backward is one
            Runge-Kutta start-up step each time, which is what the default settings here do.  (Its `explicit_adams`
            has coefficients for equal steps only; ours are exact for uneven ones.)

    Raises:
        InvalidInput: an unknown setting, or a preset together with one.
    """

    backward_solver: BackwardSolver = "rk4"
    trajectory: Literal["stored", "resolved"] = "stored"
    preset: Literal["paper"] | None = None
    name: ClassVar[str] = "adjoint"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.preset not in (None, "paper"):
            raise InvalidInput(f'preset={self.preset!r} is unknown; choose "paper" or None')
        if self.preset == "paper":
            if (self.backward_solver, self.trajectory) not in (("rk4", "stored"), ("ab4", "resolved")):
                raise InvalidInput('preset="paper" chooses backward_solver and trajectory itself: leave them out')
            object.__setattr__(self, "backward_solver", "ab4")
            object.__setattr__(self, "trajectory", "resolved")
        if self.backward_solver not in get_args(BackwardSolver):
            known = ", ".join(get_args(BackwardSolver))
            raise InvalidInput(f"backward_solver={self.backward_solver!r} is unknown; choose one of {known}")
        if self.trajectory not in ("stored", "resolved"):
            raise InvalidInput(f'trajectory={self.trajectory!r} is unknown; choose "stored" or "resolved"')

    def check(self, spec: SolveSpec) -> None:
        super().check(spec)
        if spec.solver.stochastic:
            raise InvalidInput(
                f"solver {spec.solver.name!r} solves the reverse SDE, which has no backward ODE: use "
                'gradient="exact", or an ODE solver'
            )
        if spec.grid.t.requires_grad:
            raise UnreachedGradient('times require grad, which gradient="adjoint" cannot give: use gradient="exact"')
        if self.preset == "paper" and spec.ode.name != "exponential":
            raise InvalidInput(
                f'preset="paper" solves the exponential form, not {spec.ode.name!r}: use form="exponential", or '
                'Adjoint(backward_solver="ab4", trajectory="resolved") for the same solver on this form'
            )

    @property
    def method(self) -> RungeKutta | AdamsBashforth:
        """The backward solver, multistep ones with a start of their order (Euler is AB1, which estimates its error)."""
        if self.backward_solver == "euler" or self.backward_solver.startswith("ab"):
            return AdamsBashforth(int(self.backward_solver.removeprefix("ab").replace("euler", "1")), start="rk4")
        solver = make_solver(self.backward_solver)
        assert isinstance(solver, RungeKutta)
        return solver

    def solve(self, spec: SolveSpec) -> Tensor:
        return solve_unrecorded(_Run, spec, engine=self)


class _Run(UnrecordedSolve):
    """One solve by the continuous adjoint."""

    def __init__(self, spec: SolveSpec, call: list[Tensor], weights: list[Tensor], engine: Adjoint) -> None:
        super().__init__(spec, call, weights)
        self.engine = engine

    @property
    def ode_grid(self) -> Grid:
        """The nodes above sigma = 0."""
        grid, end = self.spec.grid, self.spec.grid.ode_steps + 1
        return Grid(grid.t[:end], grid.alpha[:end], grid.sigma[:end])

    def forward(self) -> tuple[Tensor, list[Tensor]]:
        spec, stored = self.spec, self.engine.trajectory == "stored"
        states = [spec.ode.to_state(spec.x, spec.grid.t[0])]

        def on_step(n: int, t: Tensor, state: SolverState) -> None:
            if not stored:
                states.clear()
            states.append(state.y)
            if spec.on_step is not None:
                spec.on_step(n, t, state)

        return integrate(spec.solver, spec.ode, spec.x, spec.grid, on_step), states

    def backward(self, g: Tensor, x: Tensor, states: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
        grid, engine = self.ode_grid, self.engine
        system = Augmented(self.spec.ode, self.call, self.weights, wanted[1:])
        if self.spec.grid.to_zero:
            a = system.data_step(states[-1], grid.t[-1]).pull(g, 1.0)
        else:
            a = g * system.ode.scale(grid.t[-1])
        on_adjoint = self.spec.on_adjoint
        solve = Backward(system, grid, states, resolved=engine.trajectory == "resolved", on_node=on_adjoint)
        if grid.steps:
            a = solve.solve(engine.method, a)
        self.report.update(
            vjps=system.vjps,
            nfe=system.counter.nfe,
            local_error=solve.local_error,
            backward_form=self.spec.ode.name,
            backward_solver=engine.backward_solver,
            trajectory=engine.trajectory,
        )
        if engine.trajectory == "resolved":
            start = self.spec.ode.to_state(x, grid.t[0])
            self.report["drift"] = float((solve.z - start).norm() / start.norm())
        self._warn(a)
        return [a / system.ode.scale(grid.t[0]) if wanted[0] else None, *system.gradients(len(wanted) - 1)]

    def _warn(self, a: Tensor) -> None:
        drift = self.report.get("drift", 0.0)
        lost = not bool(torch.isfinite(a).all())
        if lost or not drift < 1 or not self.report["local_error"] < HOPELESS:
            engine, error = self.engine, self.report["local_error"]
            away = f", and the trajectory ends {drift:.1e} away from x_T" if "drift" in self.report else ""
            warnings.warn(
                f"the backward solve by {engine.backward_solver} ({engine.trajectory} trajectory, "
                f"{self.spec.grid.steps} steps) {'is not finite' if lost else 'has not converged'}: its steps differ "
                f"from those of another order by {error:.1e} of the adjoint in sum{away}. "
                'Use more steps, or gradient="exact"',
                NumericalWarning,
                stacklevel=2,
            )
