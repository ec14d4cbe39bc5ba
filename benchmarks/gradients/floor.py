"""By hand, the least that an exact gradient costs: N calls, N − 1 recomputations, N VJPs; without the library.

N counts calls of the network, so a solver of four stages has four in each step."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Call(NamedTuple):
    """k = on_output · net(x, time) + on_input · x at x = scale · (y + Σ before k); then y += Σ after k."""

    scale: float
    time: float
    on_output: float
    on_input: float
    before: tuple[tuple[int, float], ...]  # (how many calls ago, its factor)
    after: tuple[tuple[int, float], ...]


def field(net: Callable, call: Call, z: Tensor, cond: Tensor) -> Tensor:
    x = call.scale * z
    return call.on_output * net(x, x.new_full((len(x),), call.time), cond) + call.on_input * x


def forward(net: Callable, calls: Sequence[Call], y: Tensor, cond: Tensor, run: Callable = field) -> Tensor:
    """The last state; with autograd on, that is plain backprop."""
    k: list[Tensor] = []  # the last four
    for call in calls:
        z = y
        for lag, weight in call.before:
            z = z + weight * k[-lag]
        k = [*k[-3:], run(net, call, z, cond)]
        for lag, weight in call.after:
            y = y + weight * k[-1 - lag]
    return y


def gradient(net: Callable, calls: Sequence[Call], y: Tensor, cond: Tensor, slope: Callable, to_start: bool) -> Tensor:
    """∂loss/∂y, slope(end) being ∂loss/∂end; conditioning and weights that require grad find theirs in `.grad`."""
    inputs, graph = [], []

    def run(net: Callable, call: Call, z: Tensor, cond: Tensor) -> Tensor:
        inputs.append(z.detach().requires_grad_(to_start or len(inputs) > 0))
        with torch.set_grad_enabled(len(inputs) == len(calls)):
            graph[:] = [field(net, call, inputs[-1], cond)]  # the last call's stays
        return graph[0].detach()

    a = slope(forward(net, calls, y, cond, run))
    pulled = [torch.zeros_like(a) for _ in calls]
    for m in reversed(range(len(calls))):
        for lag, weight in calls[m].after:
            pulled[m - lag] += weight * a
        (graph.pop() if graph else field(net, calls[m], inputs[m], cond)).backward(pulled[m])
        a = a if inputs[m].grad is None else a + inputs[m].grad
        for lag, weight in calls[m].before:
            pulled[m - lag] += weight * inputs[m].grad
    return a
