"""The processes of `accelerate launch` (or torchrun), each with its share of the noises and prompts.

The gradient of a mean over images is the sum of the images' shares, whoever computes them, so one exchange after
backward is all that is needed.  DistributedDataParallel would exchange during backward, from hooks on every weight;
`replay` adds up the gradients of weights in place, call by call, and only the total is meant for others.

Every process makes the same steps from the same sums, so the parameters stay equal without being sent.  What depends
on chance must depend on the step and the item, not on the process.  Only the main process writes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from adjointdpm.errors import AdjointDPMError

__all__ = ["OtherProcessFailed", "Team"]

T = TypeVar("T")
BUCKET = 1 << 24  # numbers sent at once


class OtherProcessFailed(AdjointDPMError, RuntimeError):
    """Another process of the same run raised; its own message says why."""


class Team:
    """This process's place among `size` equal ones; one alone by default, and then nothing is ever sent."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu") -> None:
        self.rank, self.size = rank, size
        self.device = torch.device(device)  # where small things are exchanged

    @classmethod
    def join(cls) -> Team:
        """The processes that were launched with this one, or this one alone."""
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) < 2:
                return cls()
            _meet()
        on_gpu = dist.get_backend() == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def __repr__(self) -> str:
        return f"Team(rank={self.rank}, size={self.size})"

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> list[T]:
        """This process's share of what all of them have to do."""
        return list(items[self.rank :: self.size])

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Within, each does its own share of what they exchange afterwards; if one fails, none waits for it.

        Raises `OtherProcessFailed` in the others, at the end of their shares.
        """
        try:
            yield
        except BaseException:
            self.agree(True)
            raise
        if self.agree(False):
            raise OtherProcessFailed("another process of this run failed; its message says why")

    def gather(self, rows: Sequence[T]) -> list[T]:
        """The rows of all processes, on each of them, in the order of the items that `mine` dealt out.

        Every process has one row for each of its items.
        """
        if self.size == 1:
            return list(rows)
        hands: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(hands, list(rows))
        count = sum(len(hand) for hand in hands)
        return [hands[i % self.size][i // self.size] for i in range(count)]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Put the sum over the processes into each parameter's `grad`; one that no process has stays None.

        Call it once for a step, after the last backward.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=self.device)
        dist.all_reduce(there, op=dist.ReduceOp.MAX)
        wanted = [p for p, anywhere in zip(parameters, there.tolist(), strict=True) if anywhere]
        for part in _buckets(wanted):
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in part])
            dist.all_reduce(flat)
            for parameter, total in zip(part, torch.split(flat, [p.numel() for p in part]), strict=True):
                if parameter.grad is None:
                    parameter.grad = total.view(parameter.shape).clone()
                else:
                    parameter.grad.copy_(total.view(parameter.shape))

    def total(self, value: float) -> float:
        """The sum of the processes' values."""
        if self.size == 1:
            return value
        return float(sum(self._all(value)))

    def agree(self, flag: bool) -> bool:
        """Whether it is so for any of them."""
        if self.size == 1:
            return flag
        return any(self._all(float(flag)))

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            self._all(0.0)

    def _all(self, value: float) -> list[float]:
        """Everybody's value in order of rank: a sum over this list has the same last digit everywhere."""
        mine = torch.tensor([value], dtype=torch.float64, device=self.device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return [float(t) for t in found]


def _meet() -> None:
    """Open the group that the launcher's environment describes, as accelerate does; gloo on CPUs."""
    from accelerate import PartialState

    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes") or not torch.cuda.is_available()
    PartialState(cpu=on_cpu)
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    atexit.register(_part)  # gloo's threads abort a process that ends while they run


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _buckets(parameters: list[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one dtype and device, at most `BUCKET` numbers together (a larger one alone)."""
    found: list[list[Tensor]] = []
    for parameter in parameters:
        last = found[-1] if found else []
        alike = bool(last) and (last[0].dtype, last[0].device) == (parameter.dtype, parameter.device)
        if alike and sum(p.numel() for p in last) + parameter.numel() <= BUCKET:
            last.append(parameter)
        else:
            found.append([parameter])
    return found
