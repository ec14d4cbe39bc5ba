"""Would a memory budget buy more inside a call?  Selective checkpointing of the network, by PyTorch's own means.

What is dear to compute is kept (convolutions, matrix products, attention), and the rest, norms and activations, is
computed again in backward.  A call that is kept so takes less memory than its whole graph; the question is what it
costs, against the whole graph and against running the call twice.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from adjointdpm.numerics import LiveTensorMeter
from benchmarks.gradients.plan import Plan
from benchmarks.gradients.problem import Problem
from benchmarks.gradients.store import Store
from benchmarks.gradients.turns import take_turns

__all__ = ["half_memory", "measure"]

_aten = torch.ops.aten
DEAR = [
    _aten.convolution.default, _aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
]  # fmt: skip


def measure(store: Store, plan: Plan) -> None:
    for kind in plan.selective:
        if kind not in store:
            store.put(kind, _case(kind, 3 * plan.rounds))


def _case(kind: str, rounds: int) -> dict[str, Any]:
    problem = Problem(kind, 2)
    t = problem.grid.t[:1].to(problem.dtype)

    def forward(how: str, x: Tensor) -> Tensor:
        if how == "selective":
            contexts = partial(create_selective_checkpoint_contexts, DEAR)
            return checkpoint(problem.net, x, t, problem.cond, use_reentrant=False, context_fn=contexts)  # type: ignore
        if how == "twice":
            with torch.no_grad():
                problem.net(x, t, problem.cond)
        out: Tensor = problem.net(x, t, problem.cond)
        return out

    def run(how: str) -> int:
        """Bytes of the graph between forward and backward."""
        problem.begin()
        meter = LiveTensorMeter()
        x = problem.x_T.detach().requires_grad_()  # in a solve every state but the first has a graph
        if how.startswith("bytes of "):
            with meter:
                out = forward(how.removeprefix("bytes of "), x)
                held = meter.live_bytes
        else:
            out, held = forward(how, x), 0
        out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]
        return held

    held = {how: run(f"bytes of {how}") for how in ("whole", "selective")}
    times = take_turns(run, {"whole": "twice", "selective": "twice"}, rounds)
    rows = {how: {**times[how], "graph_bytes": held.get(how, 0)} for how in ("whole", "twice", "selective")}
    return {"kind": kind, "rounds": rounds, "rows": rows}


def half_memory(rows: dict[str, Any]) -> tuple[float, float]:
    """Time of a call with half of the memory of all whole graphs, as a share of running every call twice.

    Whole graphs, which half of the calls can keep, and selectively kept ones, as many as fit, the others run twice.
    """
    of = {how: rows[how]["over_floor"][1] for how in ("whole", "selective")}
    fit = min(1.0, 0.5 * rows["whole"]["graph_bytes"] / rows["selective"]["graph_bytes"])
    return 0.5 * of["whole"] + 0.5, fit * of["selective"] + 1 - fit
