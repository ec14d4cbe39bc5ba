"""A learning rate for each of several images that are optimised side by side and have nothing to do with one another.

The loss of an image is rugged in its noise: a step that serves one image throws another out of where it was good, and
one rate that falls for all of them on a clock leaves it there.  So each image keeps its best state; after `patience`
steps without a better one it returns there, its momentum is forgotten, and its rate is halved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Plateaus"]

FACTOR = 0.5


class Plateaus:
    """For parameters (N, ...) of N images.

    Args:
        losses: the losses (N,) of all images with the present parameters, asked once after each gradient.
        patience: steps without a lower loss after which an image goes back.

    `best` are each image's parameters of its lowest loss, by name.
    """

    def __init__(self, losses: Callable[[], Tensor], patience: int) -> None:
        self.losses, self.patience = losses, patience
        self.best: dict[str, Tensor] = {}
        self.lowest = torch.empty(0, dtype=torch.float64)
        self.since = torch.empty(0, dtype=torch.int64)
        self.rates = torch.empty(0, dtype=torch.float64)

    def look(self, parameters: Mapping[str, Tensor]) -> bool:
        """Note the states that are better than all before; whether there was one."""
        losses = self.losses().double().cpu()
        if not self.best:
            self.best = {name: p.detach().clone() for name, p in parameters.items()}
            self.lowest, self.since = losses.clone(), torch.zeros(len(losses), dtype=torch.int64)
            self.rates = torch.ones_like(losses)
            return True
        better = losses < self.lowest
        self.lowest = torch.where(better, losses, self.lowest)
        self.since = torch.where(better, 0, self.since + 1)
        for name, parameter in parameters.items():
            here = better.to(parameter.device)
            self.best[name][here] = parameter.detach()[here]
        return bool(better.any())

    @torch.no_grad()
    def step(self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """A step of the optimizer, each image's at its own rate; images that wait for too long go back first."""
        back = self.since >= self.patience
        self.since[back] = 0
        self.rates[back] *= FACTOR
        before = {}
        for name, parameter in parameters.items():
            here = back.to(parameter.device)
            parameter[here] = self.best[name][here]
            if parameter.grad is not None:
                parameter.grad[here] = 0
            momentum = optimizer.state[parameter].get("exp_avg")
            if momentum is not None:
                momentum[here] = 0
            before[name] = parameter.clone()
        optimizer.step()
        for name, parameter in parameters.items():
            rates = self.rates.to(parameter).view(-1, *[1] * (parameter.dim() - 1))
            parameter.copy_(before[name] + rates * (parameter - before[name]))

    def state(self) -> dict[str, Any]:
        """For a checkpoint, beside `best`."""
        return {"lowest": self.lowest, "since": self.since, "rates": self.rates}

    def restore(self, state: Mapping[str, Any], best: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        self.best = {name: value.to(parameters[name]) for name, value in best.items()}
        self.lowest, self.since, self.rates = (state[name] for name in ("lowest", "since", "rates"))
