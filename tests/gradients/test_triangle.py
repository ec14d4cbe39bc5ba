"""The gradient triangle in float64: finite difference, plain backprop and `exact` agree for everything differentiated.

Each test solves one guided problem and compares gradients with respect to the noise, the conditioning (of two parts),
the guidance of each sample and the weights.  A covering sample pairs every solver with every prediction; schedules,
forms, last steps and branches take turns.  The whole product runs with the `full` mark.
"""

import itertools
from typing import Any

import pytest
import torch

from adjointdpm.gradients.check import check_gradients
from adjointdpm.schedules import EDM, RectifiedFlow, Schedule, VPCosine, VPLinear
from adjointdpm.solvers import SOLVERS
from tests.support.problem import PREDICTIONS, WRT, Problem, errors

#: dopri5 chooses its grid, which a finite difference would move: test_adaptive.
NAMES = [name for name in SOLVERS if name not in ("ddim", "dopri5")]
FORMS = ("exponential", "raw", "angle")
SCHEDULES: dict[str, Schedule] = {"linear": VPLinear(), "cosine": VPCosine(), "edm": EDM(), "flow": RectifiedFlow()}
Case = tuple[str, str, str, str, bool]


def turn(i: int, j: int) -> Case:
    """Solver i with prediction j; the other axes by turns."""
    name, prediction = NAMES[i], PREDICTIONS[j]
    form = FORMS[(i + j) % 3] if FORMS[(i + j) % 3] in SOLVERS[name].forms else "exponential"
    schedule = "flow" if prediction == "flow" else ("linear", "cosine", "edm", "flow")[(i + 2 * j) % 4]
    return name, prediction, form, schedule, bool((i // 2 + j) % 2)


SAMPLE = [turn(i, j) for i, j in itertools.product(range(len(NAMES)), range(len(PREDICTIONS)))]
PRODUCT = [
    case
    for case in itertools.product(NAMES, PREDICTIONS, FORMS, SCHEDULES, (False, True))
    if case[2] in SOLVERS[case[0]].forms and (case[1] != "flow" or case[3] == "flow")
]


def check_triangle(name: str, prediction: str, form: str, schedule: str, to_zero: bool) -> None:
    problem = Problem(
        prediction,
        SCHEDULES[schedule],
        pooled=True,
        branches="sequential" if to_zero else "batched",
        settings={"steps": 3, "solver": name, "form": form, "to_zero": to_zero},
    )
    inputs = {"x_T": problem.x_T, **problem.cond, "guidance": problem.guidance}

    def loss(engine: str) -> Any:
        return lambda x_T, text, pooled, guidance: _with(problem, text, pooled).loss(engine, x_T=x_T, guidance=guidance)

    report = check_gradients(
        loss("exact"), inputs, reference=loss("full"), weights=problem.net, directions=2, meter=False
    )
    assert not report.problems, report.table()
    assert {row.wrt for row in report.rows} == {"x_T", "text", "pooled", "guidance", "weights"}
    for row in report.rows:
        assert row.rel_error <= (1e-12 if row.against == "reference" else 1e-7), report.table()
        assert row.noise < 1e-6, report.table()
        assert not row.note or row.wrt == "weights", report.table()


def _with(problem: Problem, text: Any, pooled: Any) -> Problem:
    problem.cond = {"text": text, "pooled": pooled}
    return problem


@pytest.mark.parametrize(("name", "prediction", "form", "schedule", "to_zero"), SAMPLE)
def test_triangle(name: str, prediction: str, form: str, schedule: str, to_zero: bool) -> None:
    check_triangle(name, prediction, form, schedule, to_zero)


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "prediction", "form", "schedule", "to_zero"), [case for case in PRODUCT if case not in SAMPLE]
)
def test_triangle_product(name: str, prediction: str, form: str, schedule: str, to_zero: bool) -> None:
    check_triangle(name, prediction, form, schedule, to_zero)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_exact_equals_full_in_float32(name: str, prediction: str) -> None:
    problem = Problem(prediction, dtype=torch.float32, settings={"solver": name, "steps": 8, "to_zero": True})
    found = errors(problem.gradients("exact"), problem.gradients("full"))
    assert set(found) == set(WRT)
    assert max(found.values()) <= 1e-5, found
