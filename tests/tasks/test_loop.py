"""The shared optimisation loop, on a problem without any network."""

import pytest
import torch

from adjointdpm.errors import NonFinite
from adjointdpm.runs import RunFolder, load_checkpoint, read_jsonl
from adjointdpm.tasks.loop import LoopSettings, learning_rate, optimise

SETTINGS = LoopSettings(epochs=12, lr=0.1, schedule="linear", weight_decay=0.01, checkpoint_every=5)


class Problem:
    """A noisy quadratic that draws from the global generator, so that random states matter."""

    def __init__(self, bad_step: int | None = None, bad: float = float("nan")) -> None:
        self.x = torch.nn.Parameter(torch.ones(3))
        self.bad_step, self.bad = bad_step, bad

    def __call__(self, step: int) -> float:
        loss = (self.x - torch.randn(3)).square().sum()
        if step == self.bad_step:
            loss = loss * self.bad
        loss.backward()
        if not torch.isfinite(loss):
            raise NonFinite(f"the loss is {float(loss.detach())} at step {step}")
        return float(loss.detach())


def run(folder, problem, settings=SETTINGS, on_step=None):
    with RunFolder(folder, "t", {}) as opened:
        opened.begin()
        return optimise(opened, {"x": problem.x}, problem, settings, on_step)


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    whole = Problem()
    expected = run(tmp_path / "whole", whole)

    def die(step, epochs, loss):
        if step == 8:
            raise RuntimeError("killed")

    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "cut", Problem(), on_step=die)
    assert load_checkpoint(tmp_path / "cut").step == 5
    torch.manual_seed(123)  # whatever happened in between
    resumed = Problem()
    history = run(tmp_path / "cut", resumed)
    assert torch.equal(resumed.x, whole.x)
    assert history.losses == expected.losses
    assert history.grad_norms == expected.grad_norms
    assert torch.equal(history.best["x"], expected.best["x"])
    logged = read_jsonl(tmp_path / "cut" / "log.jsonl")
    assert [row["step"] for row in logged] == list(range(1, 13))
    assert [row["loss"] for row in logged] == expected.losses


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_good_state(tmp_path, bad):
    torch.manual_seed(0)
    good = Problem()
    run(tmp_path / "good", good, LoopSettings(7, 0.1, "constant", 0.01, 5))
    torch.manual_seed(0)
    with pytest.raises(NonFinite, match=r"step 8 .*the state after step 7 is saved in .*bad"):
        run(tmp_path / "bad", Problem(8, bad), LoopSettings(20, 0.1, "constant", 0.01, 5))
    kept = load_checkpoint(tmp_path / "bad")
    assert kept.step == 7
    assert torch.equal(kept.state["parameters"]["x"], good.x)
    with pytest.raises(NonFinite, match="no step was made"):
        run(tmp_path / "first", Problem(1, bad))


def test_a_gradient_that_is_not_finite_or_missing_is_named(tmp_path):
    x = torch.nn.Parameter(torch.zeros(1))

    def root(step):
        loss = x.sqrt().sum()
        loss.backward()
        return float(loss.detach())

    with RunFolder(tmp_path / "a", "t", {}) as opened:
        opened.begin()
        with pytest.raises(NonFinite, match="the gradient of x is not finite"):
            optimise(opened, {"x": x}, root, SETTINGS)
    with RunFolder(tmp_path / "b", "t", {}) as opened:
        opened.begin()
        with pytest.raises(NonFinite, match="the gradient of x is missing"):
            optimise(opened, {"x": x}, lambda step: 0.0, SETTINGS)


def test_learning_rates():
    def rates(schedule):
        return [learning_rate(LoopSettings(4, 1.0, schedule, 0, 1), step) for step in (1, 2, 3, 4)]

    assert rates("constant") == [1, 1, 1, 1]
    assert rates("linear") == [1, 0.75, 0.5, 0.25]
    assert rates("cosine") == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
