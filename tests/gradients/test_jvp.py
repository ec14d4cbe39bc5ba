"""Forward mode through the sampler: equal to the vector-Jacobian product, along everything at once."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.gradients.jvp import jvp
from adjointdpm.numerics import LiveTensorMeter
from adjointdpm.sampler import sample
from adjointdpm.solvers import SOLVERS
from tests.support.mixture import metric
from tests.support.problem import PREDICTIONS, Problem

SETTLED = [name for name in SOLVERS if name not in ("ddim", "dopri5")]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("solver", SETTLED)
def test_equals_the_gradient_along_a_direction(solver: str, prediction: str) -> None:
    problem = Problem(prediction, settings={"solver": solver, "steps": 4, "to_zero": True})
    inputs = [problem.x_T, problem.cond, problem.guidance]
    source = torch.Generator().manual_seed(0)
    directions = [torch.randn(t.shape, generator=source, dtype=t.dtype) for t in inputs]

    def loss(x_T: Tensor, cond: Tensor, guidance: Tensor) -> Tensor:
        return metric(problem.sample("exact", x_T=x_T, cond=cond, guidance=guidance).x0)

    value, slope = jvp(loss, inputs, directions)
    assert not slope.requires_grad
    assert torch.equal(value, problem.loss("full").detach())
    gradient = problem.gradients("full", wrt=("x_T", "cond", "guidance"))
    want = sum(float(g @ d.flatten()) for g, d in zip(gradient.values(), directions, strict=True))
    assert float(slope) == pytest.approx(want, rel=1e-9)


def test_trees_and_what_does_not_depend() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)

    def fn(x: Tensor) -> dict[str, Any]:
        return {"square": x**2, "fixed": torch.ones(2), "name": "kept"}

    value, slope = jvp(fn, [x], [torch.ones_like(x)])
    assert torch.equal(value["square"], x**2)
    assert torch.equal(slope["square"], 2 * x)
    assert torch.equal(slope["fixed"], torch.zeros(2))
    assert slope["name"] == "kept"


def test_attention_takes_a_kernel_that_knows_forward_mode() -> None:
    q = torch.randn(1, 2, 8, 16, generator=torch.Generator().manual_seed(0))

    def attend(q: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, q, q)

    _, slope = jvp(attend, [q], [torch.ones_like(q)])
    with torch.no_grad():
        difference = (attend(q + 1e-2) - attend(q - 1e-2)) / 2e-2
    assert torch.allclose(slope, difference, atol=1e-3)


def test_memory_does_not_grow_with_the_steps() -> None:
    problem = Problem()

    def peak(steps: int) -> int:
        with LiveTensorMeter() as meter:
            jvp(
                lambda s: sample(
                    problem.denoiser, problem.x_T, cond=problem.cond, uncond=torch.zeros_like(problem.cond),
                    guidance=s, steps=steps,
                ).x0,
                [problem.guidance],
                [torch.ones_like(problem.guidance)],
            )  # fmt: skip
        return meter.peak_bytes

    assert peak(80) < 1.5 * peak(10)


def test_bad_directions() -> None:
    x = torch.zeros(2)
    with pytest.raises(InvalidInput, match="1 inputs and 2 directions"):
        jvp(torch.sin, [x], [x, x])
    with pytest.raises(InvalidInput, match="direction 0 is"):
        jvp(torch.sin, [x], [torch.zeros(3)])
    with pytest.raises(InvalidInput, match="direction 0 is"):
        jvp(torch.sin, [x], [x.double()])
