"""One small problem for every gradient test: a guided Gaussian mixture, a curved loss, and gradients to everything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adjointdpm.models import Denoiser
from adjointdpm.sampler import Sampled, sample
from adjointdpm.schedules import EDM, RectifiedFlow, Schedule, VPLinear
from adjointdpm.solvers import SOLVERS, AdamsBashforth, Solver
from tests.support.mixture import GaussianMixture, conditioning, metric, noise

WRT = ("x_T", "cond", "guidance", "weights")
PREDICTIONS = ("eps", "v", "x0", "flow")
#: Solvers by name; Adams-Bashforth with a start of its own order, so that theory's order shows.
OF_FULL_ORDER: dict[str, Solver] = {
    **{name: solver for name, solver in SOLVERS.items() if name not in ("ddim", "dopri5") and not solver.stochastic},
    **{f"ab{k}": AdamsBashforth(k, start="rk4") for k in (2, 3, 4)},
}


@dataclass
class Problem:
    """Leaves and settings of `sample`; `gradients(engine)` solves once and differentiates the loss.

    The log-SNR runs over [-2.5, 2.5] so that few steps are in the asymptotic range.  Guidance is one number per sample.
    """

    prediction: str = "eps"
    schedule: Schedule = field(default_factory=VPLinear)
    dtype: torch.dtype = torch.float64
    batch: int = 2
    pooled: bool = False
    branches: str = "batched"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prediction == "flow" and not isinstance(self.schedule, RectifiedFlow):
            self.schedule = RectifiedFlow()
        self.net = GaussianMixture(self.schedule, self.prediction).to(self.dtype)
        self.denoiser = Denoiser(self.net, self.schedule, self.prediction, branches=self.branches)  # type: ignore[arg-type]
        times = {"t_start": float(self.schedule.t_of_log_snr(-2.5)), "t_end": float(self.schedule.t_of_log_snr(2.5))}
        self.settings = {"steps": 5, "to_zero": False, **times, **self.settings}
        size = float(self.schedule.sigma(self.settings["t_start"])) if isinstance(self.schedule, EDM) else 1.0
        self.x_T = self._leaf(noise(self.batch) * size)
        text = self._leaf(conditioning(self.batch))
        self.cond: Any = {"text": text, "pooled": self._leaf(conditioning(self.batch, 5))} if self.pooled else text
        self.guidance = self._leaf(torch.linspace(1.5, 2.5, self.batch, dtype=torch.float64))

    def _leaf(self, value: Tensor) -> Tensor:
        return value.to(self.dtype).requires_grad_(True)

    @property
    def cond_leaves(self) -> list[Tensor]:
        return list(self.cond.values()) if isinstance(self.cond, Mapping) else [self.cond]

    @property
    def groups(self) -> dict[str, list[Tensor]]:
        """What is differentiated, by its name in `wrt`."""
        return {
            "x_T": [self.x_T],
            "cond": self.cond_leaves,
            "guidance": [self.guidance],
            "weights": list(self.net.parameters()),
        }

    def sample(self, engine: Any, **changes: Any) -> Sampled:
        blank = {k: torch.zeros_like(v) for k, v in self.cond.items()} if self.pooled else torch.zeros_like(self.cond)
        given = {"cond": self.cond, "uncond": blank, "guidance": self.guidance, **self.settings, **changes}
        return sample(self.denoiser, given.pop("x_T", self.x_T), gradient=engine, **given)

    def loss(self, engine: Any, **changes: Any) -> Tensor:
        return metric(self.sample(engine, **changes).x0)

    def gradients(self, engine: Any, *, wrt: Sequence[str] = WRT, **changes: Any) -> dict[str, Tensor]:
        """One flat gradient per name in `wrt` (zeros where a weight is not reached)."""
        groups = {name: self.groups[name] for name in wrt}
        leaves = [leaf for group in groups.values() for leaf in group]
        found = iter(torch.autograd.grad(self.loss(engine, **changes), leaves, allow_unused=True))
        return {
            name: torch.cat(
                [torch.zeros_like(p).flatten() if (g := next(found)) is None else g.flatten() for p in group]
            )
            for name, group in groups.items()
        }


def errors(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative l2 error per name."""
    return {k: float((got[k] - want[k]).norm() / want[k].norm()) for k in want}


def slope(coarse: float, fine: float, ratio: float) -> float:
    """Observed order from errors at N and ratio * N steps."""
    return math.log(coarse / fine) / math.log(ratio)
