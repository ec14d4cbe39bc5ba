"""The gradient benchmark's floor against plain backprop, and its tables and verdicts on figures of no meaning."""

import pytest
import torch
from torch import nn

from adjointdpm.gradients.full import Full
from adjointdpm.models import Denoiser
from adjointdpm.sampler import sample
from adjointdpm.schedules import VPLinear, make_grid
from benchmarks.gradients import analytic, floor, tables
from benchmarks.gradients.plan import TINY
from benchmarks.gradients.programs import program
from benchmarks.gradients.store import Store
from benchmarks.gradients.targets import verdicts
from benchmarks.gradients.turns import spread, take_turns

DOUBLE = torch.float64


class Net(nn.Module):
    """Curved in x, t, conditioning and weights; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3, dtype=DOUBLE)
        self.calls = 0

    def forward(self, x, t, cond):
        self.calls += 1
        return torch.tanh(self.mix(x) + cond) * (1 + t[:, None])


@pytest.mark.parametrize(("solver", "stages"), [("euler", 1), ("heun", 2), ("rk4", 4), ("ab4", 1)])
def test_the_floor_is_the_gradient_of_the_solver_at_the_fewest_calls(solver, stages):
    torch.manual_seed(0)
    schedule, net, steps = VPLinear(), Net(), 6
    grid = make_grid(schedule, steps, "uniform", to_zero=False)
    x, cond = torch.randn(2, 3, dtype=DOUBLE, requires_grad=True), torch.randn(2, 3, dtype=DOUBLE, requires_grad=True)
    first, last = float(grid.alpha[0]), float(grid.alpha[-1])
    out = sample(Denoiser(net, schedule, "v"), x, cond=cond, grid=grid, solver=solver, gradient=Full())
    want = torch.autograd.grad(out.x0.square().sum(), [x, cond, *net.parameters()])
    net.calls = 0
    calls = program(solver, schedule, grid)
    a = floor.gradient(net, calls, x.detach() / first, cond, lambda y: 2 * last**2 * y, True)
    assert net.calls == 2 * stages * steps - 1
    for got, right in zip([a / first, cond.grad, *(w.grad for w in net.parameters())], want, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-11, atol=1e-12)


def test_a_gradient_to_the_conditioning_alone_does_not_reach_the_noise():
    schedule, net = VPLinear(), Net()
    calls = program("euler", schedule, make_grid(schedule, 3, "uniform", to_zero=False))
    y, cond = torch.randn(2, 3, dtype=DOUBLE), torch.randn(2, 3, dtype=DOUBLE, requires_grad=True)
    floor.forward(net, calls, y, cond).sum().backward()
    want, cond.grad = cond.grad, None
    floor.gradient(net, calls, y, cond, torch.ones_like, False)
    torch.testing.assert_close(cond.grad, want)


def test_every_turn_has_a_floor_on_either_side_of_every_row():
    seen = []
    found = take_turns(seen.append, {"a": "floor", "b": "floor", "c": "other"}, 2)
    assert len(seen) == 2 * (2 + 3 + 1 + 2)
    assert all(seen[i - 1] in ("floor", "other") for i, name in enumerate(seen) if name in "abc")
    assert set(found) == {"a", "b", "c", "floor", "other"}
    assert "over_floor" in found["a"] and "over_floor" not in found["floor"]
    assert spread([3.0]) == [3.0, 3.0, 3.0]


def test_a_section_is_resumed(tmp_path):
    store = Store(tmp_path / "section.json")
    store.put("one", {"x": 1})
    again = Store(tmp_path / "section.json")
    assert "one" in again and "two" not in again
    assert "one" not in Store(tmp_path / "section.json", fresh=True)


def test_the_mixture_section_gives_tables_and_verdicts(monkeypatch):
    monkeypatch.setattr(analytic, "SPACINGS", ("logsnr", "uniform"))
    store = Store(None)
    analytic.measure(store, TINY)
    exact = [r["engines"]["exact"] for k, r in store.rows.items() if k != "truth"]
    assert max(found["discrete"] for found in exact) < 1e-12
    assert "adjoint_paper" in tables.mixture(store.rows, "logsnr")
    assert store.rows["uniform/4/belm"]["engines"]["reversible"]["discrete"] < 1e-9


def test_verdicts_say_what_was_measured():
    rows = {"euler/5/float32": {"error": 0.0, "bit_equal": True}, "rk4/5/float32": {"error": 1e-3, "bit_equal": False}}
    ((target, says, met),) = verdicts({"errors": rows})
    assert "float32" in target and "rk4/5/float32" in says and met is False
