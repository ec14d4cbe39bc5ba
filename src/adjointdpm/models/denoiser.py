"""The denoiser: a network with the schedule and the prediction type that give its output a meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput
from adjointdpm.models.convert import PredictionKind
from adjointdpm.models.network import NetworkCall
from adjointdpm.models.prediction import Prediction
from adjointdpm.schedules import Schedule
from adjointdpm.schedules.base import as_time

__all__ = ["Branches", "Denoiser"]

Branches = Literal["batched", "sequential"]


class Denoiser:
    """A network, wrapped once; solvers never see what it predicts.

    Args:
        net: `net(x, t, cond) -> Tensor`: x (B, ...) in the network's dtype, t (B,) float32 (float64 for a float64
            network), cond whatever was passed to `sample` with its floating tensors cast; returns the shape of x.
            Any `nn.Module` or callable.
        schedule: the schedule it was trained with.
        prediction: what it predicts: "eps", "v" (= alpha eps - sigma x_0), "x0" or "flow" (the velocity; eps - x_0 on
            rectified flow).
        branches: how guidance evaluates its two branches: "batched", one call on 2B samples, or "sequential", two calls
            on B, which halves the peak memory of a gradient.
        dtype: the network's dtype; that of its first floating parameter by default, else that of the state.
        time_map: from schedule time to the network's time (0-dim float64 to 0-dim); `schedule.net_time` by default.
        modules: modules that a callable `net` uses and that cannot be found in its closure.

    Raises:
        InvalidInput: an unknown prediction or branches, or a `net` that cannot be called.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        schedule: Schedule,
        prediction: PredictionKind = "eps",
        *,
        branches: Branches = "batched",
        dtype: torch.dtype | None = None,
        time_map: Callable[[Tensor], Tensor] | None = None,
        modules: tuple[nn.Module, ...] = (),
    ) -> None:
        if prediction not in get_args(PredictionKind):
            raise InvalidInput(f"prediction={prediction!r} is unknown; choose eps, v, x0 or flow")
        if branches not in get_args(Branches):
            raise InvalidInput(f'branches={branches!r} is unknown; choose "batched" or "sequential"')
        self.schedule = schedule
        self.prediction: PredictionKind = prediction
        self.branches: Branches = branches
        self.time_map = time_map or schedule.net_time
        self.network = NetworkCall(net, dtype, modules)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None) -> Prediction:
        """The prediction at state x (B, ...) and one time t for the whole batch."""
        t = as_time(t)
        return self.interpret(self.network(x, self.time_map(t), cond), x, t)

    def interpret(self, raw: Tensor, x: Tensor, t: Tensor) -> Prediction:
        """`raw` (B, ...), an output of the network at (x, t), as a prediction."""
        s = self.schedule
        rates = s.flow_rates(t, as_time(s.t_zero)) if self.prediction == "flow" else None
        return Prediction(raw, x, self.prediction, t, s.alpha(t), s.sigma(t), rates)
