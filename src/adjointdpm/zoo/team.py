"""Several single-threaded processes that train one model.

On a few shared cores one process with several threads waits at every operation for its slowest
thread; measured here, a second busy program cut its speed fivefold.  So each core gets a process
of its own.  A step consists of a fixed number of micro-batches, which the processes take from a
common counter: a slowed process takes fewer, and only the sum of gradients is exchanged.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor


class Team:
    """This process's place among `world` equal ones; a team of one needs no set-up."""

    def __init__(self, rank: int = 0, world: int = 1, counter: Any = None):
        self.rank, self.world, self._counter = rank, world, counter

    def micro_batches(self, step: int, per_step: int) -> Iterator[int]:
        """This process's share of the step's micro-batches (at least none, at most all)."""
        if self.world == 1:
            yield from range(per_step)
            return
        while True:
            with self._counter.get_lock():
                taken = self._counter.value
                if taken >= (step + 1) * per_step:
                    return
                self._counter.value = taken + 1
            yield taken - step * per_step

    def begin(self, step: int, per_step: int) -> None:
        """Set the common counter to the first micro-batch of `step` (after resuming)."""
        if self.world > 1:
            dist.barrier()
            if self.rank == 0:
                self._counter.value = step * per_step
            dist.barrier()

    def sum_gradients(self, parameters: list[Tensor], per_step: int, *numbers: float) -> list[float]:
        """Average the gradients over the step's micro-batches; returns the sums of `numbers`."""
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        if self.world > 1:
            extra = torch.tensor(numbers, dtype=torch.float32, device=grads[0].device)
            flat = torch.cat([g.reshape(-1) for g in grads] + [extra])
            dist.all_reduce(flat)
            parts = flat.split([g.numel() for g in grads] + [len(numbers)])
            for p, part in zip(parameters, parts, strict=False):
                p.grad = part.view(p.shape) / per_step
            return parts[-1].tolist()
        for p, g in zip(parameters, grads, strict=True):
            p.grad = g / per_step
        return list(numbers)


def _member(
    rank: int, world: int, port: int, counter: Any, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        work(Team(rank, world, counter), *arguments)
    finally:
        dist.destroy_process_group()


def run_team(work: Callable[..., None], world: int, *arguments: Any) -> None:
    """Call `work(team, *arguments)` in `world` processes (in this one if `world` is 1)."""
    if world == 1:
        work(Team(), *arguments)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    counter = mp.get_context("spawn").Value("q", 0)
    mp.spawn(_member, (world, port, counter, work, arguments), nprocs=world)
