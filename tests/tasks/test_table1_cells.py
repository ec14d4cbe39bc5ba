"""The cells of Table 1 on a model with a closed denoiser: evaluations counted, both solvers, the reference."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.models import Denoiser, GuidedDenoiser
from adjointdpm.ode import make_ode
from adjointdpm.sampler import sample
from adjointdpm.schedules import VPLinear, make_grid
from adjointdpm.solvers import AdamsBashforth, SolverState
from adjointdpm.tasks import Table1Config
from adjointdpm.tasks.table1 import explicit_adams as outside
from adjointdpm.tasks.table1.cells import Cell
from adjointdpm.tasks.table1.measure import relative_errors
from adjointdpm.tasks.table1.solve import reference, solve, step_ratio
from tests.support.mixture import GaussianMixture, noise

CELLS = Table1Config(out="unused", images=0).cells
FOUR = [(form, solver) for form in ("raw", "exponential") for solver in ("explicit_adams", "ab4")]


class Counted(torch.nn.Module):
    """A network that counts its own calls, apart from the library's counter."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = GaussianMixture(VPLinear(t_end=0.01)), 0

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        self.calls += 1
        out: Tensor = self.net(x, t, cond)
        return out


@pytest.fixture
def denoiser() -> Denoiser:
    return Denoiser(Counted().requires_grad_(False), VPLinear(t_end=0.01))


def test_the_table_has_36_cells_with_names_of_their_own() -> None:
    assert len(CELLS) == len({cell.key for cell in CELLS}) == 36
    assert [cell.nfe for cell in CELLS] == [10] * 12 + [20] * 12 + [50] * 12


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.key)
def test_every_cell_takes_the_evaluations_of_its_column(cell: Cell, denoiser: Denoiser) -> None:
    x, nfe = solve(cell, denoiser, noise(2), None)
    assert nfe == cell.nfe == denoiser.network.net.calls
    assert x.dtype == torch.float64
    grid = cell.grid(denoiser.schedule)
    assert (float(grid.t[0]), float(grid.t[-1])) == (1.0, 0.01)


@pytest.mark.parametrize("form", ["raw", "exponential"])
def test_our_cell_is_ad_sample(form: str, denoiser: Denoiser) -> None:
    x, _ = solve(Cell(form, "quadratic", "ab4", 20), denoiser, noise(2), None)  # type: ignore[arg-type]
    out = sample(denoiser, noise(2), steps=20, spacing="quadratic", solver="ab4", form=form, to_zero=False)  # type: ignore[arg-type]
    assert torch.equal(x, out.x0)


@pytest.mark.parametrize(("spacing", "agrees"), [("uniform", True), ("logsnr", False)])
def test_torchdiffeq_agrees_with_ours_on_equal_steps_after_its_start(
    spacing: str, agrees: bool, denoiser: Denoiser
) -> None:
    x, grid = noise(2), make_grid(denoiser.schedule, 12, spacing, to_zero=False)  # type: ignore[arg-type]
    ode = make_ode("raw", GuidedDenoiser(denoiser, None, None, 1.0, x))
    path = outside.explicit_adams(ode, x, grid)
    fields = [ode.field(y, t, towards=grid.t[-1]) for y, t in zip(path, grid.t, strict=True)]
    differences = []
    for n in range(3, grid.steps):
        state = SolverState(path[n], (fields[n - 1], fields[n - 2], fields[n - 3]))
        differences.append(float((AdamsBashforth(4).step(ode, state, n, grid).y - path[n + 1]).abs().max()))
    assert (max(differences) < 1e-12) == agrees
    assert agrees or min(differences) > 1e-6


@pytest.mark.parametrize(("form", "solver"), FOUR)
def test_all_cells_solve_the_same_curve(form: str, solver: str, denoiser: Denoiser) -> None:
    want = reference(denoiser, noise(4), None, 100)
    errors = [
        float(relative_errors(solve(Cell(form, "logsnr", solver, nfe), denoiser, noise(4), None)[0], want).max())  # type: ignore[arg-type]
        for nfe in (50, 400)
    ]
    assert errors[1] < 1e-4
    assert errors[1] < errors[0] / 10


def test_the_reference_is_converged(denoiser: Denoiser) -> None:
    x = [reference(denoiser, noise(4), None, steps) for steps in (50, 100, 200)]
    changes = [float(relative_errors(a, b).max()) for a, b in itertools.pairwise(x)]
    assert changes[1] < 1e-6
    assert changes[1] < changes[0] / 10  # fourth order: 16


def test_step_ratio() -> None:
    schedule = VPLinear()
    assert step_ratio(Cell("raw", "uniform", "ab4", 20), schedule) == pytest.approx(1)
    rho = [float(schedule.rho(t)) for t in make_grid(schedule, 20, "logsnr", to_zero=False).t[:3]]
    found = step_ratio(Cell("exponential", "logsnr", "ab4", 20), schedule)
    assert found == pytest.approx((rho[0] - rho[1]) / (rho[1] - rho[2]))  # a geometric clock: the same everywhere


def test_without_torchdiffeq_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"pip install 'adjointdpm\[paper\]'"):
        outside.need_torchdiffeq()
