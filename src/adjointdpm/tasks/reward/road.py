"""Which sampler and which gradient a reward run takes.

Exact gradients run through the pipeline's own code and scheduler.  The cheaper ones of the literature (DRaFT-K,
AlignProp, the one-step shortcut) leave out steps of an ODE, so for them the probability-flow ODE is solved on the
scheduler's own times: its Euler steps in the exponential form are DDIM.
"""

from __future__ import annotations

from typing import Any

from adjointdpm.gradients import make_engine
from adjointdpm.gradients.truncated import Truncated
from adjointdpm.tasks.reward.config import RewardConfig

__all__ = ["generator_for", "shortened"]

SPACINGS = ("leading", "trailing", "linspace")


def generator_for(generator: Any, config: RewardConfig) -> Any:
    """`generator` with the gradient that `config` asks for; with a solver where that gradient needs an ODE."""
    if config.gradient is None:
        return generator
    if config.gradient in ("exact", "full"):
        return generator.with_(gradient=config.gradient, memory=_memory(generator, config))
    changes: dict[str, Any] = {"gradient": make_engine(_engine(config)), "memory": None}
    if generator.road == "pipeline":
        spacing = generator.pipe.scheduler.config.get("timestep_spacing")
        changes |= {"solver": "euler", "spacing": spacing if spacing in SPACINGS else None}
    return generator.with_(**changes)


def shortened(generator: Any, config: RewardConfig, step: int) -> Any:
    """The generator of step 1 …: one that differentiates as many steps of the sampler as were drawn for this one."""
    return generator.with_(gradient=Truncated(config.last_steps(step)))


def _engine(config: RewardConfig) -> Any:
    if config.gradient == "one_step":
        return "one_step"
    return Truncated(config.last_k if config.gradient == "truncated" else config.steps)


def _memory(generator: Any, config: RewardConfig) -> Any:
    return generator.settings.memory if config.gradient == "exact" else None
