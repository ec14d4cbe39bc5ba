"""The optimisation loop that tasks share: AdamW, checkpoints, signals, a log, and a stop at the last good state.

One epoch is one AdamW step on the mean loss over all of the task's images.  A resumed loop continues the interrupted
one bit for bit: parameters, optimizer, random states and history come from the checkpoint, and the learning rate
depends on the step alone.

Several processes (`Team`) each add their share of the gradient; the sums are the same everywhere, so each makes the
same step.  A failure or a signal in one of them ends the loop in all at the same step.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from adjointdpm.errors import AdjointDPMError, NonFinite, NumericalWarning
from adjointdpm.runs import GO_ON, Checkpoint, GracefulStop, RunFolder, random_state, set_random_state
from adjointdpm.tasks.plateau import Plateaus
from adjointdpm.tasks.precision import Precision
from adjointdpm.tasks.team import Team
from adjointdpm.tasks.tracking import Tracker

__all__ = ["History", "LoopSettings", "Schedule", "learning_rate", "optimise"]

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class LoopSettings:
    """`epochs` AdamW steps at `lr`, scaled over the run as `schedule` says; a checkpoint every `checkpoint_every`.

    With `patience` the loop ends early once that many steps have passed without a lower loss; with `clip_norm` a
    gradient whose norm over all parameters is larger is scaled down to it (the norm logged is the one before).
    """

    epochs: int
    lr: float
    schedule: Schedule
    weight_decay: float
    checkpoint_every: int
    patience: int | None = None
    clip_norm: float | None = None


@dataclass
class History:
    """One entry per step; losses are those before the step's update.  `best` are the parameters of the lowest loss, of
    each image's own lowest with `Plateaus`.
    """

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def as_state(self) -> dict[str, Any]:
        return dict(vars(self))

    def is_stale(self, patience: int | None) -> bool:
        """Whether `patience` steps have passed since the lowest loss."""
        return patience is not None and bool(self.losses) and len(self.losses) - self.best_step >= patience


def learning_rate(settings: LoopSettings, step: int) -> float:
    """The rate of step 1 … epochs: full at the first, and falling to lr / epochs at the last unless constant."""
    done = (step - 1) / settings.epochs
    if settings.schedule == "linear":
        return settings.lr * (1 - done)
    if settings.schedule == "cosine":
        return settings.lr * (0.5 + 0.5 * math.cos(math.pi * done))
    return settings.lr


def optimise(
    run: RunFolder,
    parameters: Mapping[str, Tensor],
    backward: Callable[[int], float],
    settings: LoopSettings,
    on_step: Callable[[int, int, float], None] | None = None,
    *,
    team: Team | None = None,
    tracker: Tracker | None = None,
    precision: Precision | None = None,
    plateaus: Plateaus | None = None,
) -> History:
    """Minimise; `backward(step)` adds the gradients of one epoch to the parameters and returns its loss.

    Args:
        run: an opened and begun folder; continues what it has resumed.
        parameters: the tensors to optimise, by name, leaves that require grad.
        backward: of step 1, 2, …; with several processes, this one's share of gradient and loss.
        settings: see `LoopSettings`.
        on_step: called as on_step(step, epochs, loss) after each step, in the main process.
        team: the processes that share the work.
        tracker: gets loss, gradient norm and learning rate of each step, in the main process.
        precision: whose loss scale the gradients carry (`Painter.backward` puts it there); None: none.
        plateaus: gives each image a rate of its own, on top of that of `settings`.

    Raises:
        NonFinite: a loss or a gradient is not finite; names the step, after saving the state before it.  So does any
            other error of the library, such as `InvalidInput` for a function of the user's that fails.
        RunInterrupted: on SIGINT or SIGTERM, after saving.
    """
    team, precision = team or Team(), precision or Precision()
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    history, first = History(), 1
    if run.resumed is not None:
        history = _restore(run.resumed, parameters, optimizer, precision, plateaus)
        first = run.resumed.step + 1
    saved = first - 1
    with GracefulStop(speaks=team.main) as stop:
        for step in range(first, settings.epochs + 1):
            if history.is_stale(settings.patience):
                break
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            try:
                loss, norm = _gradient(backward, parameters, step, optimizer, team, precision)
            except Exception as error:  # of the user's own functions too, or no memory is left
                if saved < step - 1:
                    run.save(_checkpoint(step - 1, parameters, optimizer, history, precision, plateaus))
                run.finish("failed")
                if not isinstance(error, AdjointDPMError):
                    raise
                kept = f"the state after step {step - 1} is saved in {run.path}" if step > 1 else "no step was made"
                remedy = " Try a smaller learning rate, or a loss that stays finite." * isinstance(error, NonFinite)
                raise type(error)(f"{error} (step {step} of {settings.epochs}); {kept}.{remedy}") from error
            if norm == 0 and not any(norm == 0 for norm in history.grad_norms):
                warnings.warn(
                    f"the gradient of step {step} is exactly zero, so the step changes nothing: is the loss constant "
                    "here, or is the number format too narrow for its gradient?",
                    NumericalWarning,
                    stacklevel=2,
                )
            if plateaus is not None:
                if plateaus.look(parameters):
                    history.best_step, history.best = step, plateaus.best
            elif not history.losses or loss < min(history.losses):
                history.best_step = step
                history.best = {name: p.detach().clone() for name, p in parameters.items()}
            if settings.clip_norm is not None and norm > settings.clip_norm:
                for parameter in parameters.values():
                    _grad(parameter).mul_(settings.clip_norm / norm)
            if plateaus is not None:
                plateaus.step(parameters, optimizer)
            else:
                optimizer.step()
            precision.step_made()
            seconds = time.perf_counter() - began
            history.losses.append(loss)
            history.grad_norms.append(norm)
            history.seconds.append(seconds)
            figures = {"loss": loss, "grad_norm": norm, "lr": learning_rate(settings, step)}
            run.log.write({"step": step, **figures, "seconds": round(seconds, 3)})
            if step % settings.checkpoint_every == 0 or step == settings.epochs or history.is_stale(settings.patience):
                run.save(_checkpoint(step, parameters, optimizer, history, precision, plateaus))
                saved = step
            if team.main and tracker is not None:
                tracker.log(step, figures)
            if team.main and on_step is not None:
                on_step(step, settings.epochs, loss)
            # asked last, so a signal at any time finds its step saved
            if team.agree(stop.requested):
                if saved < step:
                    run.save(_checkpoint(step, parameters, optimizer, history, precision, plateaus))
                run.finish("interrupted")
                raise stop.interruption(
                    f"interrupted after step {step} of {settings.epochs}; saved in {run.path}: {GO_ON}"
                )
    return history


def _gradient(
    backward: Callable[[int], float],
    parameters: Mapping[str, Tensor],
    step: int,
    optimizer: torch.optim.Optimizer,
    team: Team,
    precision: Precision,
) -> tuple[float, float]:
    """Loss and norm of the gradient, summed over the processes; under a loss scale that is too large, made again."""
    while True:
        optimizer.zero_grad(set_to_none=True)
        loss = _together(backward, step, team)
        team.sum_gradients(parameters.values())
        precision.unscale(parameters.values())
        bad = [name for name, p in parameters.items() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
        if not bad:
            squares = [_grad(p).double().square().sum() for p in parameters.values()]
            return loss, float(torch.stack(squares).sum().sqrt())
        missing = parameters[bad[0]].grad is None
        if missing or not precision.lower():
            raise NonFinite(f"the gradient of {bad[0]} is {'missing' if missing else 'not finite'}")


def _together(backward: Callable[[int], float], step: int, team: Team) -> float:
    """The loss over all processes; raises in each of them if one failed or found it not finite."""
    with team.in_step():
        loss = backward(step)
    return team.total(loss)


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # looked at in `_gradient`
    return parameter.grad


def _checkpoint(
    step: int,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    history: History,
    precision: Precision,
    plateaus: Plateaus | None,
) -> Checkpoint:
    state = {
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "optimizer": optimizer.state_dict(),
        "history": history.as_state(),
        "random": random_state(),
        "precision": precision.state(),
    }
    if plateaus is not None:
        state["plateaus"] = plateaus.state()
    return Checkpoint(step, state)


def _restore(
    checkpoint: Checkpoint,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    plateaus: Plateaus | None,
) -> History:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(checkpoint.state["parameters"][name])
    optimizer.load_state_dict(checkpoint.state["optimizer"])
    set_random_state(checkpoint.state["random"])
    if "precision" in checkpoint.state:
        precision.restore(checkpoint.state["precision"])
    history = History(**checkpoint.state["history"])
    if plateaus is not None:
        plateaus.restore(checkpoint.state["plateaus"], history.best, parameters)
    return history
