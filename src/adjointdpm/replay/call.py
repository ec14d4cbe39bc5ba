"""One call of a module: run once in the forward, its graph dropped, and run again in backward.

The first run is made with autograd on and on the real weights, so that it takes the same kernels as plain backprop and
its graph can serve if it turns out to be the last call: which call that is nobody knows, so every graph is kept until
the next call begins.  Building graphs that are thrown away costs 1 to 3 % of the floor (N forwards, N - 1
recomputations, N VJPs) on a small UNet; running without a graph would cost one more recomputation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from adjointdpm.errors import AdjointDPMError, InvalidInput
from adjointdpm.replay.accumulate import added_as_they_arise, can_borrow, gradients_in_place, is_narrow, large
from adjointdpm.replay.ambient import Ambient
from adjointdpm.replay.gate import Gate, Total, graph_task
from adjointdpm.replay.norms import Norms
from adjointdpm.replay.state import Snapshot
from adjointdpm.replay.structure import Slot, swapped, tensors_in
from adjointdpm.replay.trim import Trimmer
from adjointdpm.replay.unreached import guard_leaf
from adjointdpm.replay.weights import Mark, WeightWatch

__all__ = ["Call", "Stats", "inside", "is_inside"]

_thread = threading.local()


def is_inside() -> bool:
    """Whether a replayed call is running in this thread; calls nested in it are part of it."""
    return bool(getattr(_thread, "inside", False))


@contextmanager
def inside() -> Iterator[None]:
    """Mark the block as being part of a replayed call."""
    before = is_inside()
    _thread.inside = True
    try:
        yield
    finally:
        _thread.inside = before


@dataclass
class Stats:
    """What the calls under one `replay` have cost so far; backward goes on counting after the block has ended."""

    forwards: int = 0
    recomputations: int = 0
    vjps: int = 0


@dataclass(eq=False)
class Call:
    """All that is needed to run a call again, and its graph as long as that is kept."""

    name: str
    method: str
    function: Callable[..., Any]
    pattern: Any  # (args, kwargs) with slots for tensors
    differentiated: list[int]  # slots of the tensors that require grad
    weights: list[torch.Tensor]  # those that require grad
    snapshot: Snapshot
    watch: WeightWatch
    stats: Stats
    ambient: Ambient
    trimmer: Trimmer
    on_cpu: bool
    norms: Norms | None = None
    wide: torch.dtype | None = None  # of the sums of gradients over the calls, for tensors of lower precision
    gates: list[Gate] = field(default_factory=list)  # one per differentiated slot, then one for the weights if any
    added_directly: list[int] = field(default_factory=list)  # positions in `weights`, see accumulate.py
    edited: set[int] = field(default_factory=set)  # slots of tensors that the call itself edits in place
    leaves_a_trace: bool = True  # in the module's state; False once the next call found that unchanged
    mark: Mark | None = None
    buffers: dict[int, torch.Tensor] = field(default_factory=dict)
    probe: list[torch.Tensor] = field(default_factory=list)
    graph: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None  # (outputs, leaves)
    backward_runs: dict[str, bool] = field(default_factory=lambda: {"now": False})

    def leaves(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Fresh leaves that stand for the differentiated arguments."""
        leaves = []
        for i in self.differentiated:
            leaf = tensors[i].detach().requires_grad_()
            guard_leaf(leaf, self.name, self.backward_runs)
            leaves.append(leaf)
        return leaves

    def run(self, args: Any, kwargs: Any) -> tuple[Any, list[torch.Tensor]]:
        """Call the function; returns its result and the distinct tensors in it that have a graph."""
        try:
            with inside():
                result = self.function(*args, **kwargs)
        except RuntimeError as error:
            if "leaf Variable that requires grad" in str(error):
                raise InvalidInput(
                    f"{self.name} edits an argument that requires grad (or a weight) in place, so it cannot be "
                    f"replayed; pass it a clone. ({error})"
                ) from error
            raise
        return result, [t for t in tensors_in(result) if t.requires_grad]

    def run_again(self, tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Replay the call as it was.  Returns (outputs with a graph, leaves)."""
        self.stats.recomputations += 1
        if self.on_cpu:
            self.trimmer.about_to_run()
        leaves = self.leaves(tensors)
        values = [t.clone() if i in self.edited else t for i, t in enumerate(tensors)]
        for i, leaf in zip(self.differentiated, leaves, strict=True):
            values[i] = leaf
        args, kwargs = swapped(self.pattern, Slot, lambda slot: values[slot.index], fresh=True)
        assert self.mark is not None
        with (
            torch.enable_grad(),
            self.snapshot.in_force(leaves_a_trace=self.leaves_a_trace),
            self.watch.as_called(self.mark),
            self.watch.own_buffers(self.buffers, self.snapshot),
            self.ambient.in_force(),
        ):
            _, outputs = self.run(args, kwargs)
        return outputs, leaves

    @contextmanager
    def being_measured(self) -> Iterator[None]:
        """Within the block the call may be run again and differentiated without being counted."""
        counted, self.backward_runs["now"] = self.stats.recomputations, True
        try:
            yield
        finally:
            self.stats.recomputations, self.backward_runs["now"] = counted, False

    def plain_vjp(self, outputs: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> None:
        """One vector-Jacobian product to the leaves and weights, for its cost; nothing is kept."""
        seeds = [torch.ones_like(t) for t in outputs]
        assert self.mark is not None
        with _without_hooks(self.weights), self.watch.as_called(self.mark):
            torch.autograd.grad(list(outputs), [*leaves, *self.weights], seeds, allow_unused=True)

    def vjp(
        self, tensors: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor | None], wanted: list[bool]
    ) -> None:
        """Carry cotangents of the outputs to the gates.  wanted: per gate, whether PyTorch will run it."""
        task = graph_task()
        assert self.mark is not None
        graph, self.graph = self.graph, None
        self.watch.check(self.mark, self.probe, self.name, task)
        if self.mark.rewritten():  # with equal values, or the check would have raised; but PyTorch refuses the graph
            graph = None
        outputs, leaves = graph if graph is not None else self.run_again(tensors)
        if len(outputs) != len(cotangents):
            raise AdjointDPMError(
                f"{self.name} returned {len(cotangents)} tensors with a graph, and {len(outputs)} when replayed: it "
                "depends on something that `replay` does not know of (a global, a counter, Python's random)"
            )
        if self.norms is not None:
            cotangents, entered = self.norms.enter(self.name, cotangents)
        behind: list[list[torch.Tensor]] = [[leaf] for leaf in leaves]
        if self.weights:
            behind.append(self.weights)
        pairs = [(gate, ts) for gate, ts, want in zip(self.gates, behind, wanted, strict=True) if want]
        totals = [gate.totals.pop(task, Total([None] * len(ts))) for gate, ts in pairs]
        tensors_behind = [t for _, ts in pairs for t in ts]
        sums = [so_far for total in totals for so_far in total.gradients]
        with_weights = bool(self.weights) and wanted[-1]
        first_weight = len(tensors_behind) - (len(self.weights) if with_weights else 0)
        in_place = self.wide is None and can_borrow(tensors_behind)
        direct = {
            first_weight + i for i in self.added_directly if with_weights and (in_place or large(self.weights[i]))
        }
        roots, seeds = [], []
        for i, (tensor, so_far) in enumerate(zip(tensors_behind, sums, strict=True)):
            if so_far is not None and i not in direct and not is_narrow(tensor, self.wide):
                roots.append(tensor)  # the sum so far is the first summand, see gate.py
                seeds.append(so_far)
        for output, cotangent in zip(outputs, cotangents, strict=True):
            if cotangent is not None:
                roots.append(output)
                seeds.append(cotangent)
        self.stats.vjps += 1
        self.backward_runs["now"] = True
        try:
            with _without_hooks(self.weights), self.watch.as_called(self.mark):
                if in_place:
                    borrowed = [so_far if i in direct else None for i, so_far in enumerate(sums)]
                    found = gradients_in_place(roots, seeds, tensors_behind, borrowed)
                else:
                    found = self._gradients(roots, seeds, tensors_behind, sums, direct, totals[-1])
        finally:
            self.backward_runs["now"] = False
        if self.norms is not None:
            self.norms.leave(self.name, entered, found[:first_weight])
        gradients = iter(found)
        for (gate, ts), total in zip(pairs, totals, strict=True):
            total.gradients = [next(gradients) for _ in ts]
            gate.totals[task] = total

    def _gradients(
        self,
        roots: list[torch.Tensor],
        seeds: list[torch.Tensor],
        tensors: list[torch.Tensor],
        sums: list[torch.Tensor | None],
        direct: set[int],
        of_weights: Total,
    ) -> list[torch.Tensor | None]:
        """As `gradients_in_place`, with sums of large weights (the last of `tensors`) made by hooks, and in `wide`."""
        first_weight = len(tensors) - len(of_weights.gradients)
        which = [i - first_weight for i in sorted(direct)]
        found: list[torch.Tensor | None] = []
        with added_as_they_arise(self.weights, which, of_weights, self.wide):
            found += torch.autograd.grad(roots, tensors, seeds, allow_unused=True)
        of_weights.owned &= set(which)
        for i, (tensor, so_far, new) in enumerate(zip(tensors, sums, found, strict=True)):
            if i in direct:
                found[i] = of_weights.gradients[i - first_weight]
            elif is_narrow(tensor, self.wide):  # its sum so far was no summand of the backward pass
                found[i] = so_far if new is None else new.to(self.wide) if so_far is None else so_far + new
        return found


@contextmanager
def _without_hooks(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Hooks that the user registered on weights run once, on the total; here PyTorch would run them once a call."""
    both = [hooks for t in tensors for hooks in (t._backward_hooks, t._post_accumulate_grad_hooks) if hooks]
    hooked = [(hooks, dict(hooks)) for hooks in both]
    for hooks, _ in hooked:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, content in hooked:
            hooks.update(content)


class Replayed(torch.autograd.Function):
    """The node that stands for a call in the outer graph."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, outputs: list[torch.Tensor], tensors: list[torch.Tensor], *tokens: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.call = call
        ctx.save_for_backward(*tensors)
        return tuple(t.detach() for t in outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[None, ...]:
        call: Call = ctx.call
        nothing = (None,) * (3 + len(call.gates))
        try:
            tensors = ctx.saved_tensors
        except RuntimeError as error:
            if "inplace" in str(error):
                raise InvalidInput(
                    f"a tensor that was passed to {call.name} was edited in place after the call, and the call cannot "
                    f"be replayed without it: write x = x + d in place of x += d, or pass a clone. ({error})"
                ) from error
            raise
        if all(c is None for c in cotangents):
            return nothing
        nodes = [node for node, _ in ctx.next_functions if node is not None]
        wanted = [torch._C._will_engine_execute_node(node) for node in nodes]
        if any(wanted):
            call.vjp(tensors, cotangents, wanted)
        return nothing
