"""The shared optimisation loop, on a problem without any network."""

import signal

import pytest
import torch

from adjointdpm.errors import NonFinite
from adjointdpm.runs import RunFolder, RunInterrupted, load_checkpoint, read_jsonl
from adjointdpm.tasks.loop import LoopSettings, learning_rate, optimise
from adjointdpm.tasks.precision import Precision

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


@pytest.mark.parametrize("last", [3, 12])
def test_a_signal_ends_it_after_the_step_and_says_how_to_go_on(tmp_path, capsys, last):
    def note(step, epochs, loss):
        if step == last:
            signal.raise_signal(signal.SIGTERM)
            assert capsys.readouterr().err == "stopping after this step; once more stops at once\n"

    with pytest.raises(RunInterrupted, match=rf"step {last} of 12; saved in .*--resume, .*the same call") as found:
        run(tmp_path / "run", Problem(), on_step=note)
    assert found.value.code == 143
    assert load_checkpoint(tmp_path / "run").step == last
    assert len(run(tmp_path / "run", Problem()).losses) == 12


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


def quadratic(x):
    """Gradient descent on the squared distance of x from 1."""

    def backward(step):
        loss = (x - 1).square().sum()
        loss.backward()
        return float(loss.detach())

    return backward


def test_it_stops_early_when_the_loss_no_longer_falls(tmp_path):
    settings = LoopSettings(50, 0.1, "constant", 0.0, 10, patience=3)
    losses = [5.0, 4.0, 4.5, 4.2, 4.1, 1.0]

    def run(folder, steps):
        x = torch.nn.Parameter(torch.zeros(1))

        def backward(step):
            x.grad = torch.ones(1)
            steps.append(step)
            return losses[step - 1]

        with RunFolder(folder, "t", {}) as opened:
            opened.begin()
            return optimise(opened, {"x": x}, backward, settings)

    steps: list[int] = []
    history = run(tmp_path / "run", steps)
    assert history.losses == losses[:5]
    assert history.best_step == 2
    assert load_checkpoint(tmp_path / "run").step == 5
    again = run(tmp_path / "run", steps)  # a run that stopped early is finished
    assert steps == [1, 2, 3, 4, 5]
    assert again.losses == losses[:5]


def test_clipping_bounds_the_step_and_the_log_keeps_the_norm_before(tmp_path):
    seen = []

    x = torch.nn.Parameter(torch.full((4,), 101.0))

    def note(step, epochs, loss):
        seen.append(float(x.grad.norm()))

    settings = LoopSettings(2, 0.1, "constant", 0.0, 5, clip_norm=0.5)
    with RunFolder(tmp_path / "run", "t", {}) as opened:
        opened.begin()
        history = optimise(opened, {"x": x}, quadratic(x), settings, note)
    assert history.grad_norms[0] == pytest.approx(400.0)
    assert seen == pytest.approx([0.5, 0.5])


def test_the_tracker_gets_each_step(tmp_path):
    class Kept:
        def __init__(self):
            self.rows = []

        def log(self, step, values):
            self.rows.append((step, values))

        def close(self):
            pass

    x = torch.nn.Parameter(torch.zeros(2))
    with RunFolder(tmp_path / "run", "t", {}) as opened:
        opened.begin()
        history = optimise(
            opened, {"x": x}, quadratic(x), LoopSettings(3, 0.1, "linear", 0.0, 5), tracker=(kept := Kept())
        )
    assert [step for step, _ in kept.rows] == [1, 2, 3]
    assert [values["loss"] for _, values in kept.rows] == history.losses
    assert kept.rows[2][1]["lr"] == pytest.approx(0.1 / 3)


def test_a_loss_scale_that_is_too_large_is_halved_and_the_step_made_again(tmp_path):
    """Gradients above 65504 overflow in float16: here by a factor that only the smaller scales leave room for."""
    settings = LoopSettings(4, 0.1, "constant", 0.01, 2)

    def run(folder, precision):
        x = torch.nn.Parameter(torch.zeros(2))

        def backward(step):
            loss = (x - 1).square().sum()
            precision.backward(loss)
            x.grad = x.grad.half().float()
            return float(loss.detach())

        with RunFolder(folder, "t", {}) as opened:
            opened.begin()
            history = optimise(opened, {"x": x}, backward, settings, precision=precision)
        return x, history

    scaled = Precision("fp16")
    assert scaled.scale == 2.0**16
    x, history = run(tmp_path / "fp16", scaled)
    assert scaled.scale == 2.0**14  # the gradient is -2: 2**15 gives -65536, an infinity in float16
    plain, expected = run(tmp_path / "no", Precision())
    assert history.losses == expected.losses
    assert torch.equal(x, plain)
    again = Precision("fp16")
    run(tmp_path / "fp16", again)
    assert again.scale == 2.0**14  # comes with the checkpoint


def test_an_infinite_gradient_that_no_scale_cures_is_an_error(tmp_path):
    x = torch.nn.Parameter(torch.zeros(1))

    def backward(step):
        x.grad = torch.full((1,), float("inf"))
        return 1.0

    with RunFolder(tmp_path / "run", "t", {}) as opened:
        opened.begin()
        with pytest.raises(NonFinite, match="the gradient of x is not finite"):
            optimise(opened, {"x": x}, backward, SETTINGS, precision=Precision("fp16"))
