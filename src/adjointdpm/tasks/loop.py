"""The optimisation loop that tasks share: AdamW, checkpoints, signals, a log, and a stop at the last good state.

One epoch is one AdamW step on the mean loss over all of the task's images.  A resumed loop continues the interrupted
one bit for bit: parameters, optimizer, random states and history come from the checkpoint, and the learning rate
depends on the step alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from adjointdpm.errors import NonFinite
from adjointdpm.runs import Checkpoint, GracefulStop, RunFolder, random_state, set_random_state

__all__ = ["History", "LoopSettings", "Schedule", "learning_rate", "optimise"]

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class LoopSettings:
    """`epochs` AdamW steps at `lr`, scaled over the run as `schedule` says; a checkpoint every `checkpoint_every`."""

    epochs: int
    lr: float
    schedule: Schedule
    weight_decay: float
    checkpoint_every: int


@dataclass
class History:
    """One entry per step; losses are those before the step's update.  `best` are the parameters of the lowest loss."""

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def as_state(self) -> dict[str, Any]:
        return dict(vars(self))


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
) -> History:
    """Minimise; `backward(step)` adds the gradients of one epoch to the parameters and returns its loss.

    `on_step(step, epochs, loss)` is called after each step.  Raises `NonFinite` naming the step if a loss or a gradient
    is not finite, after saving the state before it; `RunInterrupted` on SIGINT or SIGTERM, after saving.
    """
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    history, first = History(), 1
    if run.resumed is not None:
        history = _restore(run.resumed, parameters, optimizer)
        first = run.resumed.step + 1
    saved = first - 1
    with GracefulStop() as stop:
        for step in range(first, settings.epochs + 1):
            began = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            try:
                loss, norm = _gradient(backward, parameters, step)
            except NonFinite as error:
                if saved < step - 1:
                    run.save(_checkpoint(step - 1, parameters, optimizer, history))
                run.finish("failed")
                kept = f"the state after step {step - 1} is saved in {run.path}" if step > 1 else "no step was made"
                raise NonFinite(
                    f"{error} (step {step} of {settings.epochs}); {kept}. "
                    "Try a smaller learning rate, or a loss that stays finite."
                ) from error
            if not history.losses or loss < min(history.losses):
                history.best_step = step
                history.best = {name: p.detach().clone() for name, p in parameters.items()}
            optimizer.step()
            seconds = time.perf_counter() - began
            history.losses.append(loss)
            history.grad_norms.append(norm)
            history.seconds.append(seconds)
            rate = learning_rate(settings, step)
            run.log.write({"step": step, "loss": loss, "grad_norm": norm, "lr": rate, "seconds": round(seconds, 3)})
            if step % settings.checkpoint_every == 0 or step == settings.epochs:
                run.save(_checkpoint(step, parameters, optimizer, history))
                saved = step
            if on_step is not None:
                on_step(step, settings.epochs, loss)
            if stop.requested and step < settings.epochs:  # asked last, so a signal at any time finds its step saved
                if saved < step:
                    run.save(_checkpoint(step, parameters, optimizer, history))
                run.finish("interrupted")
                raise stop.interruption(
                    f"interrupted after step {step} of {settings.epochs}; saved in {run.path}: run it again to go on"
                )
    return history


def _gradient(backward: Callable[[int], float], parameters: Mapping[str, Tensor], step: int) -> tuple[float, float]:
    loss = backward(step)
    squares = []
    for name, parameter in parameters.items():
        if parameter.grad is None or not bool(torch.isfinite(parameter.grad).all()):
            raise NonFinite(f"the gradient of {name} is {'missing' if parameter.grad is None else 'not finite'}")
        squares.append(parameter.grad.double().square().sum())
    return loss, float(torch.stack(squares).sum().sqrt())


def _checkpoint(
    step: int, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, history: History
) -> Checkpoint:
    state = {
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "optimizer": optimizer.state_dict(),
        "history": history.as_state(),
        "random": random_state(),
    }
    return Checkpoint(step, state)


def _restore(checkpoint: Checkpoint, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> History:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(checkpoint.state["parameters"][name])
    optimizer.load_state_dict(checkpoint.state["optimizer"])
    set_random_state(checkpoint.state["random"])
    return History(**checkpoint.state["history"])
