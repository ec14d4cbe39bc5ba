"""What every engine owes, with every solver, for everything that is differentiated and every prediction, in float64.

One contract, inherited by a class for each engine, over solver × engine × wrt × prediction.  `make test` runs a sample
in which every pair of values meets; `make test-all` runs the whole product (mark `full`).
"""

import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NumericalWarning, UnreachedGradient
from adjointdpm.gradients import ENGINES, Engine, make_engine
from adjointdpm.gradients.adjoint import Adjoint
from adjointdpm.gradients.exact import Exact
from adjointdpm.gradients.truncated import Truncated
from adjointdpm.solvers import SOLVERS
from tests.support.covering import covering_sample
from tests.support.problem import PREDICTIONS, WRT, Problem, errors

NAMES = [name for name in SOLVERS if name != "ddim"]
#: What is differentiated: one thing alone, or everything at once.
WANTED = (*((name,) for name in WRT), WRT)
CASES = list(itertools.product(ENGINES, NAMES, WANTED, PREDICTIONS))
STEPS = 6


def fits(case: Any) -> bool:
    """Whether engine and solver go together at all."""
    engine, solver, wrt, _ = case
    if engine == "reversible":
        return bool(SOLVERS[solver].reversible)
    if engine == "adjoint":
        return not SOLVERS[solver].stochastic
    return not (engine in ("truncated", "random_truncation") and "x_T" in wrt)


SAMPLE = covering_sample([list(ENGINES), NAMES, WANTED, PREDICTIONS], fits)


def cases(engine: str) -> Any:
    """Parameters of one engine's contract: its part of the sample, and the rest of the product under `full`."""
    chosen = [case[1:] for case in SAMPLE if case[0] == engine]
    rest = [case[1:] for case in CASES if case[0] == engine and fits(case) and case[1:] not in chosen]
    return [*chosen, *(pytest.param(*case, marks=pytest.mark.full) for case in rest)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "solver" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize(("solver", "wrt", "prediction"), cases(metafunc.cls.name))


class Contract:
    """An engine's contract; `check_gradient` is what a subclass promises about the gradient's value."""

    name: str
    more_evaluations = 0  # in a forward that is to be differentiated

    def engine(self) -> Engine:
        return make_engine(self.name)

    def solved(self, solver: str, wrt: tuple[str, ...], prediction: str, engine: Any = None, **changes: Any) -> Any:
        """The gradients for `wrt` alone: nothing else requires grad."""
        problem = Problem(prediction, settings={"solver": solver, "steps": STEPS, "form": "exponential"})
        for name, group in problem.groups.items():
            for leaf in group:
                leaf.requires_grad_(name in wrt)
        return problem.gradients(engine or self.engine(), wrt=wrt, **changes), problem

    def check_gradient(self, found: dict[str, Tensor], solver: str, wrt: tuple[str, ...], prediction: str) -> None:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def quiet(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            yield

    def test_gradient(self, solver: str, wrt: tuple[str, ...], prediction: str) -> None:
        torch.manual_seed(0)
        found, problem = self.solved(solver, wrt, prediction)
        assert set(found) == set(wrt)
        assert all(bool(torch.isfinite(g).all()) and bool(g.any()) for g in found.values())
        assert all(leaf.grad is None for group in problem.groups.values() for leaf in group)
        self.check_gradient(found, solver, wrt, prediction)

    def test_the_sample_is_that_of_plain_sampling(self, solver: str, wrt: tuple[str, ...], prediction: str) -> None:
        _, problem = self.solved(solver, wrt, prediction)
        out = problem.sample(self.engine())
        with torch.no_grad():
            want = problem.sample("full")
            without = problem.sample(self.engine())
        assert out.x0.requires_grad
        assert not without.x0.requires_grad
        assert torch.allclose(out.x0, want.x0, rtol=1e-13, atol=1e-13)
        assert torch.allclose(without.x0, want.x0, rtol=1e-13, atol=1e-13)
        assert out.stats.nfe == want.stats.nfe + self.more_evaluations
        assert without.stats.nfe == want.stats.nfe


class ExactContract(Contract):
    """The gradient is that of the sampler, to rounding, at 1, 2 and more steps, with and without a step to zero."""

    tolerance = 1e-12

    def check_gradient(self, found: dict[str, Tensor], solver: str, wrt: tuple[str, ...], prediction: str) -> None:
        want, _ = self.solved(solver, wrt, prediction, "full")
        assert max(errors(found, want).values()) <= self.tolerance
        for steps, to_zero in ((1, True), (1, False), (2, True), (2, False)):
            pair = [
                self.solved(solver, wrt, prediction, engine, steps=steps, to_zero=to_zero)[0]
                for engine in (self.engine(), "full")
            ]
            assert max(errors(*pair).values()) <= self.tolerance, (steps, to_zero)


class TestFull(Contract):
    """Autograd itself: held against a central difference along its own gradient."""

    name = "full"

    def check_gradient(self, found: dict[str, Tensor], solver: str, wrt: tuple[str, ...], prediction: str) -> None:
        if solver == "dopri5":  # its grid moves with its input; the accepted grid is tested in test_adaptive
            return
        _, problem = self.solved(solver, wrt, prediction)
        for name, gradient in found.items():
            direction, h = gradient / gradient.norm(), 1e-5
            ends = []
            for sign in (1, -1):
                self._shift(problem.groups[name], sign * h * direction)
                with torch.no_grad():
                    ends.append(float(problem.loss("full")))
                self._shift(problem.groups[name], -sign * h * direction)
            assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(float(gradient.norm()), rel=1e-6)

    @staticmethod
    def _shift(leaves: list[Tensor], by: Tensor) -> None:
        with torch.no_grad():
            for leaf, part in zip(leaves, by.split([leaf.numel() for leaf in leaves]), strict=True):
                leaf.add_(part.reshape(leaf.shape))


class TestExact(ExactContract):
    name = "exact"
    tolerance = 0.0  # bit equal


class TestReversible(ExactContract):
    name = "reversible"


class TestAdjoint(Contract):
    """The gradient of the ODE: it comes as near to that of the sampler as both solves come to the ODE."""

    name = "adjoint"

    def check_gradient(self, found: dict[str, Tensor], solver: str, wrt: tuple[str, ...], prediction: str) -> None:
        gaps = []
        for steps in (40, 160):
            got, want = (self.solved(solver, wrt, prediction, e, steps=steps)[0] for e in (self.engine(), "full"))
            gaps.append(max(errors(got, want).values()))
        if solver == "dopri5":  # the same accepted grid whatever the number of steps
            assert gaps[1] < 0.05
            return
        assert gaps[1] < gaps[0]
        assert gaps[1] < (0.2 if SOLVERS[solver].order == 1 else 0.02)


class TestTruncated(Contract):
    """Exact when no step is left out; before, another gradient."""

    name = "truncated"

    def check_gradient(self, found: dict[str, Tensor], solver: str, wrt: tuple[str, ...], prediction: str) -> None:
        want, _ = self.solved(solver, wrt, prediction, "full")
        assert min(errors(found, want).values()) > 1e-6
        whole, _ = self.solved(solver, wrt, prediction, Truncated(1000))
        assert max(errors(whole, want).values()) == 0


class TestRandomTruncation(Contract):
    """One of the truncated gradients."""

    name = "random_truncation"

    def check_gradient(self, found: dict[str, Tensor], solver: str, wrt: tuple[str, ...], prediction: str) -> None:
        _, problem = self.solved(solver, wrt, prediction, "full")
        steps = problem.sample("full").grid.steps
        each = [self.solved(solver, wrt, prediction, Truncated(k))[0] for k in range(1, steps + 1)]
        assert min(max(errors(found, want).values()) for want in each) < 1e-12


class TestOneStep(Contract):
    """Exact for the one step to zero that it stands for."""

    name = "one_step"
    more_evaluations = 1

    def check_gradient(self, found: dict[str, Tensor], solver: str, wrt: tuple[str, ...], prediction: str) -> None:
        one = {"steps": 1, "to_zero": True}
        got, want = (self.solved(solver, wrt, prediction, engine, **one)[0] for engine in (self.engine(), "full"))
        assert max(errors(got, want).values()) < 1e-12


@pytest.mark.parametrize(("engine", "solver"), itertools.product(ENGINES, NAMES))
def test_what_does_not_go_together_is_refused_before_any_network_call(engine: str, solver: str) -> None:
    problem = Problem(settings={"solver": solver})
    if fits((engine, solver, WRT, "eps")):
        return
    calls: list[int] = []
    problem.net.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises((InvalidInput, UnreachedGradient)) as caught:
        problem.sample(engine)
    assert "use" in str(caught.value) or "needs" in str(caught.value)
    assert not calls


def test_every_pair_is_in_the_sample() -> None:
    product = [case for case in CASES if fits(case)]
    for i, j in itertools.combinations(range(4), 2):
        assert {(c[i], c[j]) for c in product} == {(c[i], c[j]) for c in SAMPLE}
    assert len(SAMPLE) < len(product) / 4


def test_settings_of_the_engines_share_the_contract() -> None:
    """A budget, norms and the adjoint's other solvers do not change what is promised."""
    problem = Problem(settings={"steps": STEPS, "solver": "ab3"})
    want = problem.gradients("full")
    for engine in (Exact(memory="1GB"), Exact(norms=True), Exact(accumulate=torch.float32), Exact(clip=1e6)):
        assert max(errors(problem.gradients(engine), want).values()) == 0
    fine = problem.gradients("full", steps=160)
    for engine in (Adjoint("heun"), Adjoint("ab4"), Adjoint("rk4", "resolved")):
        assert max(errors(problem.gradients(engine, steps=160), fine).values()) < 0.02
