"""`ad.replay` against plain backprop and `torch.utils.checkpoint`: time, live tensors, resident memory, overhead.

    python -m benchmarks.replay            # measures, writes benchmarks/results/replay.json and docs/replay.md
    python -m benchmarks.replay --page     # writes docs/replay.md again from that file

One thread; processor time, because other work on the machine disturbs it least; the methods take turns, and medians are
reported.  Resident memory is the growth of a process of its own per method and number of calls.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import adjointdpm as ad
from adjointdpm.numerics import LiveTensorMeter, relative_error
from benchmarks.replay_page import write_page
from benchmarks.resident import growth_during

HERE = Path(__file__).parent
METHODS = ("plain", "reentrant", "non-reentrant", "replay")
CALLS = (5, 10, 20, 40, 80)


def embedded_size_unet() -> nn.Module:
    """A UNet of the embedded model's size with random weights: 16 x 16 latents of 8 channels."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet: nn.Module = UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 128, 128),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=32,
    )
    return unet.eval()


class Sine(nn.Module):
    """A network that does next to nothing, to see what a call itself costs; it has something to recompute."""

    def forward(self, x: Tensor, t: float, c: Tensor | None = None) -> Tensor:
        return x.sin()


class Loop:
    """N calls of a network in an Euler loop, and the gradient to noise and conditioning (and weights)."""

    def __init__(self, network: nn.Module, z: Tensor, c: Tensor | None) -> None:
        self.network, self.z, self.c = network, z, c
        self.leaves = [t for t in (z, c, *network.parameters()) if t is not None and t.requires_grad]

    def call(self, x: Tensor, t: float) -> Tensor:
        result = self.network(x, t, self.c)
        return result if isinstance(result, Tensor) else result.sample

    def forward(self, calls: int, method: str) -> Tensor:
        step: Callable[[Tensor, float], Tensor] = self.call
        if method in ("reentrant", "non-reentrant"):
            # Reentrant checkpoints find no gradient for what they are not given, hence c as an argument.
            def step(x: Tensor, t: float) -> Tensor:
                inner = lambda x, t, c: self.call(x, t)  # noqa: E731
                return checkpoint(inner, x, t, self.c, use_reentrant=method == "reentrant")  # type: ignore[no-any-return]

        x = self.z
        for n in range(calls):
            x = x - step(x, 900.0 * (1 - n / calls)) / calls
        return x.square().sum()

    def gradient(self, calls: int, method: str) -> list[Tensor | None]:
        for leaf in self.leaves:
            leaf.grad = None
        if method == "replay":
            with ad.replay(self.network):
                loss = self.forward(calls, method)
        else:
            loss = self.forward(calls, method)
        loss.backward()  # type: ignore[no-untyped-call]
        return [leaf.grad for leaf in self.leaves]

    def floor(self, calls: int) -> None:
        """What no method with one graph alive can undercut, by hand: N forwards, N - 1 recomputations, N VJPs."""
        states = [self.z.detach()]
        with torch.no_grad():
            for n in range(calls - 1):
                states.append(states[-1] - self.call(states[-1], 900.0 * (1 - n / calls)) / calls)
        cotangent = None
        total: list[Any] = [None] * (len(self.leaves) - 1)
        for n in reversed(range(calls)):
            x = states[n].requires_grad_()
            following = x - self.call(x, 900.0 * (1 - n / calls)) / calls
            cotangent = 2 * following.detach() if cotangent is None else cotangent
            cotangent, *rest = torch.autograd.grad(following, [x, *self.leaves[1:]], cotangent, allow_unused=True)
            total = [r if s is None else s if r is None else s + r for s, r in zip(total, rest, strict=True)]


def loop_of(kind: str) -> Loop:
    torch.manual_seed(1)
    if kind == "nothing":
        return Loop(Sine(), torch.randn(4, requires_grad=True), None)
    unet = embedded_size_unet().requires_grad_(kind == "weights")
    return Loop(unet, torch.randn(1, 8, 16, 16, requires_grad=True), torch.randn(1, 16, 128, requires_grad=True))


def seconds(function: Callable[[], Any]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def medians(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median processor time of each, taking turns; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def measure_loop(kind: str, calls: int, rounds: int) -> dict[str, Any]:
    loop = loop_of(kind)
    functions: dict[str, Callable[[], Any]] = {m: lambda m=m: loop.gradient(calls, m) for m in METHODS}
    times = medians({**functions, "floor": lambda: loop.floor(calls)}, rounds)
    want = [None if g is None else g.clone() for g in loop.gradient(calls, "plain")]
    row: dict[str, Any] = {"kind": kind, "calls": calls, "rounds": rounds, "floor_s": times["floor"]}
    for method in METHODS:
        with LiveTensorMeter() as meter:
            got = loop.gradient(calls, method)
        row[method] = {
            "seconds": times[method],
            "peak_bytes": meter.peak_bytes,
            "error": max(relative_error(g, w) for g, w in zip(got, want, strict=True)),
            "rss_bytes": resident_growth(kind, calls, method),
        }
    return row


def resident_growth(kind: str, calls: int, method: str) -> int:
    command = [sys.executable, "-m", "benchmarks.replay", "--rss", kind, str(calls), method]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent)
    return int(done.stdout.split()[-1])


def print_resident_growth(kind: str, calls: int, method: str) -> None:
    """Growth of this process: the high-water mark during a gradient, above what it holds after one of a single call."""
    loop = loop_of(kind)
    loop.gradient(1, "plain")
    print(growth_during(lambda: loop.gradient(calls, method)))


def measure_overhead(calls: int = 80, rounds: int = 25) -> dict[str, float]:
    """Microseconds a call, forward and backward together, on a network that does next to nothing."""
    loop = loop_of("nothing")
    times = medians({m: lambda m=m: loop.gradient(calls, m) for m in METHODS}, rounds)
    return {method: value / calls * 1e6 for method, value in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--calls", nargs="+", type=int, default=CALLS, help="numbers of calls, default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds up to 20 calls; half of them beyond")
    parser.add_argument("--rss", nargs=3, metavar=("KIND", "CALLS", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "results" / "replay.json"
    if options.rss:
        print_resident_growth(options.rss[0], int(options.rss[1]), options.rss[2])
        return
    if not options.page:
        machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": 1}
        result: dict[str, Any] = {"machine": machine, "overhead_us": measure_overhead(), "loops": []}
        path.parent.mkdir(exist_ok=True)
        for kind, calls in [*(("noise", n) for n in options.calls), ("weights", 20)]:
            rounds = options.rounds if calls <= 20 else (options.rounds + 1) // 2
            result["loops"].append(measure_loop(kind, calls, rounds))
            print(json.dumps(result["loops"][-1]), flush=True)
            path.write_text(json.dumps(result, indent=1) + "\n")  # after each: it is a long run
    write_page(json.loads(path.read_text()), HERE.parent / "docs" / "replay.md")


if __name__ == "__main__":
    main()
