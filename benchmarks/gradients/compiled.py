"""`torch.compile` of the network under `exact`: does it work here, and what does it save?"""

from __future__ import annotations

from typing import Any

import torch

from adjointdpm.models import Denoiser
from adjointdpm.numerics import relative_error
from benchmarks.gradients.methods import gradient
from benchmarks.gradients.plan import Plan
from benchmarks.gradients.problem import Problem, UNet
from benchmarks.gradients.store import Store
from benchmarks.gradients.turns import take_turns

__all__ = ["measure"]


def measure(store: Store, plan: Plan) -> None:
    if plan.compiled and (key := f"x_T/{plan.compiled}") not in store:
        store.put(key, _case(plan.compiled, plan.rounds))


def _case(steps: int, rounds: int) -> dict[str, Any]:
    plain, compiled = Problem("x_T", steps), Problem("x_T", steps)
    try:
        compiled.net = UNet(torch.compile(plain.net.unet))  # type: ignore[arg-type]
        compiled.denoiser = Denoiser(compiled.net, plain.schedule, plain.denoiser.prediction)
        got = gradient("exact", compiled)[0][0].clone()
    except Exception as error:  # whatever the compiler of this machine says
        return {"works": False, "why": f"{type(error).__name__}: {error}"[:300]}
    runs = {"exact": ("exact", plain), "exact_compiled": ("exact", compiled), "floor_euler": ("floor_euler", plain)}
    floor_of = dict.fromkeys(("exact", "exact_compiled"), "floor_euler")
    times = take_turns(lambda row: gradient(*runs[row]), floor_of, rounds)
    error = relative_error(got, gradient("exact", plain)[0][0])
    return {"works": True, "error": error, "steps": steps, "rows": times}
