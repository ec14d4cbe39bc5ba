"""Solvers: tableaux, Adams weights, DPM-Solver++ formulas, evaluations counted. Orders of convergence: test_order*."""

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.models import Denoiser, GuidedDenoiser
from adjointdpm.ode import ODE, ExponentialODE, make_ode
from adjointdpm.schedules import EDM, Grid, VPLinear, make_grid
from adjointdpm.solvers import (
    DOPRI5,
    EULER,
    HEUN,
    RK4,
    SOLVERS,
    AdamsBashforth,
    DPMpp2M,
    RungeKutta,
    Solver,
    SolverState,
    adams_weights,
    integrate,
    make_solver,
)

VP = VPLinear()


def gaussian_ode(form: Any = "exponential", spread: float = 0.5) -> ODE:
    """The ODE of data N(0, spread^2) with its exact eps."""

    def net(x: Tensor, t: Tensor, cond: None) -> Tensor:
        alpha, sigma = VP.alpha(t[0]), VP.sigma(t[0])
        return sigma * x / (alpha**2 * spread**2 + sigma**2)

    x = torch.ones(1, 2, dtype=torch.float64)
    return make_ode(form, GuidedDenoiser(Denoiser(net, VP), None, None, 1.0, x))


def evaluations(ode: ODE) -> int:
    return ode.model.counter.nfe  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", [EULER, HEUN, RK4, DOPRI5], ids=lambda m: m.name)
def test_order_conditions_of_the_tableaux(method: RungeKutta) -> None:
    """Sum over b, c, a up to the method's order (Hairer, Norsett, Wanner, II.2)."""
    s = len(method.b)
    a = [[*row, *[0.0] * (s - len(row))] for row in method.a]
    b, c = method.b, method.c
    assert [sum(row) for row in a] == pytest.approx(c)
    conditions = {
        1: [(sum(b), 1)],
        2: [(sum(b[i] * c[i] for i in range(s)), 1 / 2)],
        3: [
            (sum(b[i] * c[i] ** 2 for i in range(s)), 1 / 3),
            (sum(b[i] * a[i][j] * c[j] for i in range(s) for j in range(s)), 1 / 6),
        ],
        4: [
            (sum(b[i] * c[i] ** 3 for i in range(s)), 1 / 4),
            (sum(b[i] * c[i] * a[i][j] * c[j] for i in range(s) for j in range(s)), 1 / 8),
            (sum(b[i] * a[i][j] * c[j] ** 2 for i in range(s) for j in range(s)), 1 / 12),
            (
                sum(b[i] * a[i][j] * a[j][k] * c[k] for i in range(s) for j in range(s) for k in range(s)),
                1 / 24,
            ),
        ],
    }
    for order in range(1, min(method.order, 4) + 1):
        for got, expected in conditions[order]:
            assert got == pytest.approx(expected, abs=1e-15)


def exact_weights(nodes: list[Fraction], end: Fraction) -> list[Fraction]:
    """The same integrals by rational arithmetic: solve for exactness on 1, v, v^2, ... with v = u - nodes[0]."""
    k, h = len(nodes), end - nodes[0]
    rows = [[(u - nodes[0]) ** m for u in nodes] + [h ** (m + 1) / (m + 1)] for m in range(k)]
    for i in range(k):
        pivot = next(r for r in range(i, k) if rows[r][i] != 0)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for r in range(k):
            if r != i:
                rows[r] = [v - rows[r][i] * w for v, w in zip(rows[r], rows[i], strict=True)]
    return [row[-1] for row in rows]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("ratio", [0.2, 0.9, 1.0, 3.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_adams_weights_are_exact_on_uneven_grids(k: int, ratio: float, sign: int) -> None:
    steps = [ratio**i for i in range(k + 1)]
    u = [Fraction(sign * sum(steps[:i])) for i in range(k + 1)]
    nodes, end = u[:-1][::-1], u[-1]
    ours = adams_weights([float(v) for v in nodes], float(end))
    exact = [float(w) for w in exact_weights([Fraction(float(v)) for v in nodes], Fraction(float(end)))]
    assert ours == pytest.approx(exact, rel=1e-13)


def test_adams_weights_on_an_even_grid_are_the_textbook_ones() -> None:
    ours = adams_weights([0.0, -1.0, -2.0, -3.0], 1.0)
    assert ours == pytest.approx([55 / 24, -59 / 24, 37 / 24, -9 / 24], rel=1e-14)


def test_euler_on_the_exponential_form_is_ddim() -> None:
    ode, grid = gaussian_ode(), make_grid(VP, 5, "uniform", to_zero=False)
    x = torch.full((1, 2), 0.7, dtype=torch.float64)
    got = integrate(EULER, ode, x, grid)
    for t, t_next in pairwise(grid.t):
        said = ode.model(x, t)
        x = VP.alpha(t_next) * said.x0 + VP.sigma(t_next) * said.eps
    assert torch.allclose(got, x, rtol=1e-13)


def test_ab1_is_euler_and_ab2_is_the_two_step_formula() -> None:
    ode, grid = gaussian_ode(), make_grid(VP, 6, "logsnr", to_zero=False)
    x = torch.full((1, 2), 0.7, dtype=torch.float64)
    assert torch.allclose(integrate(AdamsBashforth(1), ode, x, grid), integrate(EULER, ode, x, grid), rtol=1e-14)
    u, y = ode.clock(grid.t), ode.to_state(x, grid.t[0])
    earlier = None
    for n in range(grid.steps):
        f, h = ode.field(y, grid.t[n], grid.t[n + 1]), u[n + 1] - u[n]
        if earlier is None:
            y = y + h * f
        else:
            r = h / (u[n] - u[n - 1])
            y = y + h * ((1 + r / 2) * f - r / 2 * earlier)
        earlier = f
    assert torch.allclose(integrate(AdamsBashforth(2), ode, x, grid), ode.from_state(y, grid.t[-1]), rtol=1e-13)


def test_dpmpp2m_is_algorithm_2() -> None:
    """x_n = sigma_n/sigma_{n-1} x_{n-1} - alpha_n (e^{-h} - 1) D, written in x."""
    ode, grid = gaussian_ode(), make_grid(VP, 16, "uniform", to_zero=False)
    x = torch.full((1, 2), 0.7, dtype=torch.float64)
    got = integrate(DPMpp2M(), ode, x, grid)
    lam, earlier = VP.log_snr(grid.t), None
    for n in range(grid.steps):
        x0, h = ode.model(x, grid.t[n]).x0, float(lam[n + 1] - lam[n])
        data = x0
        if earlier is not None:
            r = float(lam[n] - lam[n - 1]) / h
            data = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * earlier
        x = grid.sigma[n + 1] / grid.sigma[n] * x - grid.alpha[n + 1] * (math.exp(-h) - 1) * data
        earlier = x0
    assert torch.allclose(got, x, rtol=1e-12)


def test_dpmpp2m_lowers_the_order_of_a_last_step_when_steps_are_few() -> None:
    x = torch.full((1, 2), 0.7, dtype=torch.float64)

    def run(solver: Solver, steps: int) -> Tensor:
        return integrate(solver, gaussian_ode(), x, make_grid(VP, steps, "logsnr", to_zero=False))

    assert not torch.equal(run(DPMpp2M(), 6), run(DPMpp2M(lower_order_final=False), 6))
    assert torch.equal(run(DPMpp2M(), 15), run(DPMpp2M(lower_order_final=False), 15))


NFE = dict.fromkeys(SOLVERS, 1) | {"heun": 2, "rk4": 4, "dopri5": 6}


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("to_zero", [True, False])
@pytest.mark.parametrize("name", SOLVERS)
def test_evaluations_are_counted_as_declared(name: str, to_zero: bool, steps: int) -> None:
    ode, grid, solver = gaussian_ode(), make_grid(VP, steps, to_zero=to_zero), make_solver(name)
    x = integrate(solver, ode, torch.ones(1, 2, dtype=torch.float64), grid)
    assert bool(torch.isfinite(x).all())
    assert evaluations(ode) == solver.nfe(grid) == (steps - to_zero) * NFE[name] + to_zero


@pytest.mark.parametrize("k", [2, 3, 4])
def test_evaluations_of_a_runge_kutta_start(k: int) -> None:
    for steps in (1, 2, 6):
        ode, grid, solver = gaussian_ode(), make_grid(VP, steps), AdamsBashforth(k, start="rk4")
        integrate(solver, ode, torch.ones(1, 2, dtype=torch.float64), grid)
        assert evaluations(ode) == solver.nfe(grid) == steps + 3 * min(k - 1, steps - 1)


@pytest.mark.parametrize("form", ["raw", "exponential", "angle"])
@pytest.mark.parametrize("name", ["euler", "heun", "rk4", "ab2", "ab4", "dpmpp2m"])
def test_solvers_reach_the_closed_solution(name: str, form: str) -> None:
    solver = make_solver(name)
    if form not in solver.forms:
        assert isinstance(solver, DPMpp2M)
        return
    x = torch.full((1, 2), 0.7, dtype=torch.float64)
    errors = []
    for steps in (40, 80):
        grid = make_grid(VP, steps, "logsnr", t_start=0.9, t_end=0.01, to_zero=False)
        size = (grid.alpha**2 * 0.25 + grid.sigma**2).sqrt()
        exact = x * size[-1] / size[0]
        errors.append(float((integrate(solver, gaussian_ode(form), x, grid) - exact).norm() / exact.norm()))
    order = min(solver.order, 2) if solver.multistep else solver.order  # the Euler ramp of ab4
    assert errors[1] < errors[0] / 2 ** (order - 0.5)


def test_steps_are_pure_and_history_is_bounded() -> None:
    ode, grid = gaussian_ode(), make_grid(VP, 8, "logsnr", to_zero=False)
    history = {"euler": 0, "rk4": 0, "ab1": 0, "ab3": 2, "ab4": 3, "dpmpp2m": 1, "belm": 1, "ancestral": 0}
    for name, kept in history.items():
        solver = make_solver(name)
        state = solver.init(ode, torch.ones(1, 2, dtype=torch.float64), grid)
        for n in range(8):
            before = SolverState(state.y.clone(), tuple(h.clone() for h in state.history))
            first, again = (solver.step(ode, state, n, grid) for _ in range(2))
            assert torch.equal(first.y, again.y)
            assert torch.equal(state.y, before.y)
            state = first
        assert len(state.history) == kept


def test_no_evaluation_at_sigma_0() -> None:
    seen: list[float] = []

    def net(x: Tensor, t: Tensor, cond: None) -> Tensor:
        seen.append(float(t[0]))
        return x

    for name in SOLVERS:
        x = torch.ones(1, 2, dtype=torch.float64)
        model = GuidedDenoiser(Denoiser(net, EDM(), "x0"), None, None, 1.0, x)
        integrate(make_solver(name), ExponentialODE(model, EDM()), x, make_grid(EDM(), 4))
    assert min(seen) == pytest.approx(0.002)


def test_a_step_of_no_length_changes_nothing() -> None:
    """diffusers' leading spacing with set_alpha_to_one=False and no offset ends with one."""
    t = torch.tensor([0.9, 0.5, 0.1, 0.1], dtype=torch.float64)
    grid, short = (Grid(s, VP.alpha(s), VP.sigma(s)) for s in (t, t[:-1]))
    x = torch.ones(1, 2, dtype=torch.float64)
    for solver in (*SOLVERS.values(), DPMpp2M(lower_order_final=False)):
        if solver != DPMpp2M():  # its last of a few steps is of first order
            last = integrate(solver, gaussian_ode(), x, grid)
            assert torch.allclose(last, integrate(solver, gaussian_ode(), x, short), rtol=1e-14)


@pytest.mark.parametrize("make", [lambda: AdamsBashforth(5), lambda: AdamsBashforth(0), lambda: make_solver("ab9")])
def test_unknown_solvers(make: Any) -> None:
    with pytest.raises(InvalidInput):
        make()
    with pytest.raises(InvalidInput):
        AdamsBashforth(2, start="heun")  # type: ignore[arg-type]
