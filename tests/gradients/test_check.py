"""`ad.check_gradients` on functions: passes what is right, names what is wrong, and leaves its inputs alone."""

import json
import math
import random

import pytest
import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput, NonFinite
from adjointdpm.gradients.check import check_gradients
from adjointdpm.gradients.check_report import GradientReport, Row
from adjointdpm.gradients.finite_difference import Ladder, computational_noise, directional_derivative
from adjointdpm.replay import replay


class Scaled(torch.autograd.Function):
    """The identity, with a gradient that is too large by a factor."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.factor, None


def curved(x: Tensor, y: Tensor) -> Tensor:
    return (x.sin() * y.exp()).sum() + x.square().mean()


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, generator=g, dtype=torch.float64), torch.randn(3, 4, generator=g, dtype=torch.float64)


def test_right_gradient_passes_tightly(pair: tuple[Tensor, Tensor]) -> None:
    report = check_gradients(curved, pair)
    assert report.ok, report.table()
    assert [(row.engine, row.wrt) for row in report.rows] == [("gradient", "input 0"), ("gradient", "input 1")]
    assert max(row.rel_error for row in report.rows) < 1e-9
    assert all(row.cosine > 1 - 1e-12 for row in report.rows)


@pytest.mark.parametrize("factor", [1.001, -1.0, 0.0])
def test_wrong_gradient_fails(pair: tuple[Tensor, Tensor], factor: float) -> None:
    report = check_gradients(lambda x, y: curved(Scaled.apply(x, factor), y), pair)
    by_input = {row.wrt: row for row in report.rows}
    assert not report.ok
    assert not by_input["input 0"].passed
    assert by_input["input 1"].passed
    assert by_input["input 0"].rel_error == pytest.approx(abs(1 - factor) / max(1, abs(factor)), rel=0.05)
    assert "input 0" in report.verdict


def test_error_in_one_component_is_seen() -> None:
    x = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def fn(x: Tensor) -> Tensor:
        return torch.cat([x[:1].detach(), x[1:]]).square().sum()

    assert not check_gradients(fn, x).ok


def test_missing_gradient_is_told_from_no_dependence(pair: tuple[Tensor, Tensor]) -> None:
    hidden = check_gradients(lambda x, y: curved(x.detach(), y), pair)
    assert not hidden.ok
    assert "not reached" in hidden.rows[0].note
    unused = check_gradients(lambda x, y: y.sin().sum(), pair)
    assert unused.ok, unused.table()
    assert "not reached" in unused.rows[0].note


def test_zero_gradient_is_named() -> None:
    report = check_gradients(lambda x: x.round().sum() + 0 * x.sum(), torch.tensor([0.2, 1.3], dtype=torch.float64))
    assert "exactly zero" in report.rows[0].note


def test_nan_gradient_is_named() -> None:
    report = check_gradients(lambda x: x.square().sum().sqrt() * 0 + x.sum(), torch.zeros(3, dtype=torch.float64))
    assert not report.ok
    assert "3 of 3 gradient entries are NaN" in report.verdict
    assert report.as_dict()["results"][0]["rel_error"] is None
    json.dumps(report.as_dict(), allow_nan=False)


def test_random_function_is_found_out() -> None:
    report = check_gradients(lambda x: (x * torch.rand_like(x)).sum(), torch.ones(4, dtype=torch.float64))
    assert not report.ok
    assert "random numbers" in report.verdict


def test_float32_states_its_noise(pair: tuple[Tensor, Tensor]) -> None:
    report = check_gradients(curved, [t.float() for t in pair])
    assert report.ok, report.table()
    assert all(0 < row.noise < 1e-2 for row in report.rows)
    assert not check_gradients(lambda x, y: curved(Scaled.apply(x, 1.2), y), [t.float() for t in pair]).ok


def test_reference_is_the_measure(pair: tuple[Tensor, Tensor]) -> None:
    report = check_gradients(lambda x, y: curved(Scaled.apply(x, 1 + 1e-8), y), pair, reference=curved)
    against = {(row.against, row.wrt): row for row in report.rows}
    assert against["reference", "input 0"].rel_error == pytest.approx(1e-8, rel=1e-3)
    assert against["reference", "input 1"].rel_error == 0.0
    assert against["finite difference", "input 0"].passed  # too small a mistake for a difference to see
    assert not report.ok
    other = check_gradients(curved, pair, reference=lambda x, y: 2 * curved(x, y))
    assert "returns" in other.verdict


def test_inputs_weights_and_random_state_are_left_alone(pair: tuple[Tensor, Tensor]) -> None:
    net = nn.Linear(4, 4).double()
    before = [p.detach().clone() for p in net.parameters()]
    x = pair[0].clone().requires_grad_(True)
    state = torch.get_rng_state()
    report = check_gradients(lambda x: net(x).tanh().sum(), {"x": x}, weights=net)
    assert report.ok, report.table()
    assert [row.wrt for row in report.rows] == ["x", "weights"]
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert torch.equal(x, pair[0])
    assert x.grad is None
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_only_what_requires_grad_is_checked(pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    report = check_gradients(curved, [x, y.clone().requires_grad_(True)])
    assert [row.wrt for row in report.rows] == ["input 1"]


def test_a_loop_under_replay(pair: tuple[Tensor, Tensor]) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).double()

    def loop(x: Tensor) -> Tensor:
        for _ in range(3):
            x = x - 0.3 * net(x)
        return x.square().sum()

    def replayed(x: Tensor) -> Tensor:
        with replay(net):
            return loop(x)

    report = check_gradients(replayed, {"x": pair[0]}, reference=loop, weights=net)
    assert report.ok, report.table()
    assert [row.rel_error for row in report.rows if row.against == "reference"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("fn", "inputs", "error", "words"),
    [
        (lambda x: x.sin(), torch.ones(3), InvalidInput, "one real number"),
        (lambda x: x.detach().sum(), torch.ones(3), InvalidInput, "no graph"),
        (lambda x: x.sum().item(), torch.ones(3), InvalidInput, "float"),
        (lambda x: (x * math.nan).sum(), torch.ones(3), NonFinite, "nan"),
        (lambda x: x.sum(), torch.tensor([math.nan]), InvalidInput, "NaN"),
        (lambda x: x.sum(), torch.ones(3, dtype=torch.int64), InvalidInput, "nothing to differentiate"),
        (lambda x: x.sum(), "text", InvalidInput, "str"),
        (3, torch.ones(3), InvalidInput, "int"),
    ],
)
def test_bad_input_is_one_clear_error(fn: object, inputs: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        check_gradients(fn, inputs)


def test_mistyped_option_raises() -> None:
    with pytest.raises(InvalidInput, match="direction_count"):
        check_gradients(lambda x: x.sum(), torch.ones(3), direction_count=2)


LADDER = Ladder(0.1, 10, 1e-12)


@pytest.mark.parametrize(("f", "slope"), [(math.exp, 1.0), (math.sin, 1.0), (lambda h: (1 + h) ** 5, 5.0)])
def test_extrapolated_difference_and_its_noise(f: object, slope: float) -> None:
    found = directional_derivative(f, LADDER, resolution=1e-16)
    assert abs(found.value - slope) <= max(found.noise, 1e-12)
    assert found.noise < 1e-9


def test_noise_of_a_rough_function_is_admitted() -> None:
    found = directional_derivative(lambda h: math.exp(h) + 1e-6 * math.sin(1e9 * h), LADDER, resolution=1e-16)
    assert 1e-7 < found.noise < 1e-3
    assert abs(found.value - 1.0) <= found.noise


@pytest.mark.parametrize("error", [1e-9, 1e-5])
def test_rounding_is_measured_also_where_the_value_is_near_zero(error: float) -> None:
    draw = random.Random(0)

    def f(h: float) -> float:
        return math.sin(h) + draw.gauss(0.0, error)

    assert 0.5 * error < computational_noise(f, 1e-5) < 3 * error
    found = [directional_derivative(f, LADDER) for _ in range(40)]
    assert sum(abs(d.value - 1.0) > d.noise for d in found) <= 1
    assert all(abs(d.value - 1.0) < 2 * d.noise for d in found)


def test_a_sharply_curved_function_gets_small_steps() -> None:
    """Flat at the first steps, where differences are small and agree with one another."""
    found = directional_derivative(lambda h: math.tanh(1000 * h), Ladder(0.1, 16, 1e-6), floor=1.0)
    assert found.value == pytest.approx(1000, rel=1e-4)


def test_a_step_stops_halving_once_it_settles() -> None:
    calls: list[float] = []

    def f(h: float) -> float:
        calls.append(h)
        return math.exp(h)

    directional_derivative(f, Ladder(0.1, 14, 1e-6))
    assert len(calls) == 13 + 1 + 2 * 5  # 13 to measure the rounding, 1 in the middle


def test_kinks_of_a_rectified_network_are_admitted() -> None:
    """A function with a kink at every scale: the plain difference wanders, and extrapolating it means nothing."""
    for seed in range(20):
        draw = random.Random(seed)
        kinks = [(draw.gauss(0, 0.05), draw.uniform(-0.2, 0.2) * draw.random()) for _ in range(400)]
        slope = 1 + sum(-a if x > 0 else a for x, a in kinks)

        def f(h: float, kinks: list[tuple[float, float]] = kinks) -> float:
            return math.sin(h) + sum(a * (abs(h - x) - abs(x)) for x, a in kinks)

        found = directional_derivative(f, Ladder(0.06, 12, 3e-4), resolution=1e-6, floor=1.0)
        assert abs(found.value - slope) < 3 * found.noise
        assert found.noise < 0.3


def test_a_lone_kink_too_near_to_be_resolved_is_admitted() -> None:
    """Differences agree with one another at every step; only the two sides tell that they agree on a wrong slope."""
    found = directional_derivative(lambda h: h + 0.1 * abs(h - 1e-9), Ladder(0.06, 12, 3e-4), resolution=1e-9)
    assert 0.05 < abs(found.value - 0.9) < found.noise


def test_the_verdict_keeps_noise_and_error_apart() -> None:
    exact = Row("exact", "x_T", 0.0, 1.0, 1.0, 1.0, tolerance=1e-5)
    difference = Row("gradient", "x_T", 0.05, 1.0, 1.0, 1.0, against="finite difference", noise=0.04, tolerance=0.01)
    words = GradientReport((exact, difference)).verdict
    assert (
        words == "The gradients are right: exact to 0.0e+00; finite differences agree to 5.0e-02 (own noise 4.0e-02)."
    )
    assert "finite" not in GradientReport((exact,)).verdict
