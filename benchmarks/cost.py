"""What an exact gradient of a generated image costs: both roads against the floor, plain backprop and checkpoints.

    python -m benchmarks.cost              # measures, writes benchmarks/results/cost.json and docs/cost.md
    python -m benchmarks.cost --page       # writes docs/cost.md again from that file
    python -m benchmarks.cost --quick      # one round, few steps: does it run?

The embedded model, guided DDIM, decoding included.  Methods take turns, the floor between any two of them; medians of
the wall time.  Peaks are live tensor bytes; resident memory is the growth of a process of its own for each figure.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.utils.checkpoint import checkpoint

import adjointdpm as ad
from adjointdpm.numerics import LiveTensorMeter, relative_error
from benchmarks import floor
from benchmarks.cost_page import write_page
from benchmarks.resident import growth_during

HERE = Path(__file__).parent
RESULT, PAGE = HERE / "results" / "cost.json", HERE.parent / "docs" / "cost.md"
METHODS = ("floor", "pipeline", "ode", "plain", "reentrant", "non-reentrant")
SCALE = 5.0
PROMPTS = ["shaded apple on white background", "flat cat on blue background", "3d rocket", "shaded house, sepia"]
TRAIN_STEPS = 1000


def model() -> Any:
    """The embedded model, its last step going to σ = 0 on every road."""
    from diffusers import DDIMScheduler

    pipe = ad.zoo.emoji()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True)
    return pipe


class Case:
    """One problem: `kind` is "x_T" (gradient to the noise) or "weights" (to all of the U-Net's weights as well)."""

    def __init__(self, kind: str, batch: int, steps: int) -> None:
        torch.manual_seed(0)
        self.pipe, self.kind, self.steps, self.batch = model(), kind, steps, batch
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.unet.requires_grad_(kind == "weights")
        self.noise = torch.randn(batch, 8, 16, 16).requires_grad_()
        wrt = ("x_T", "weights") if kind == "weights" else ("x_T",)
        self.pipeline = ad.differentiable(self.pipe, wrt=wrt)
        self.embeds, self.negative = (e.detach() for e in self.pipeline.encode_prompt(PROMPTS[:batch]))
        self.plain = self.pipeline.with_(gradient="full")
        self.ode = ad.differentiable(self.pipe, wrt=wrt, solver="euler", spacing="trailing")
        self.pipe.scheduler.set_timesteps(steps)
        times = self.pipe.scheduler.timesteps
        bars = torch.cat([self.pipe.scheduler.alphas_cumprod[times].double(), torch.ones(1).double()])
        self.by_hand = floor.Sampler(
            self.pipe.unet, self.pipe.vae, times, bars, torch.cat([self.negative, self.embeds]), SCALE
        )

    def gradient(self, method: str) -> list[Tensor]:
        """Forward and backward by one method: [∂/∂noise, ∂/∂weights …]."""
        self.noise.grad = None
        self.pipe.unet.zero_grad()
        if method == "floor":
            to_noise: Any = floor.gradient(self.by_hand, self.noise)
        else:
            floor.loss_of(self._image(method)).backward()
            to_noise = self.noise.grad
        return [to_noise, *(p.grad for p in self.pipe.unet.parameters() if p.grad is not None)]

    def _image(self, method: str) -> Tensor:
        if method in ("pipeline", "ode", "plain"):
            out = getattr(self, method)(
                prompt_embeds=self.embeds,
                negative_prompt_embeds=self.negative,
                latents=self.noise,
                num_inference_steps=self.steps,
                guidance_scale=SCALE,
            )
            return out.image_unclamped
        again, reentrant = self.by_hand, method == "reentrant"
        x = self.noise
        for n in range(self.steps):
            x = checkpoint(again.step, x, n, use_reentrant=reentrant)
        return checkpoint(again.decode, x, use_reentrant=reentrant)


def measure_times(kind: str, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """Median seconds, ratios to the floor by turn, and error against plain backprop on the pipeline road, by method."""
    assert TRAIN_STEPS % steps == 0, "DDIM steps from one timestep to the next only if steps divide the schedule"
    case = Case(kind, batch, steps)
    methods = [m for m in METHODS if m != "floor"]
    want = [g.clone() for g in case.gradient("plain")]
    seconds: dict[str, list[float]] = {m: [] for m in ("floor", *methods)}
    over_floor: dict[str, list[float]] = {m: [] for m in methods}
    errors: dict[str, float] = {}

    def timed(method: str) -> float:
        began = time.perf_counter()
        got = case.gradient(method)
        taken = time.perf_counter() - began
        if method not in errors:
            # over all tensors: one by one, a bias whose true gradient is zero would be mere rounding
            errors[method] = relative_error(parameters_to_vector(got), parameters_to_vector(want))
        return taken

    for turn in range(rounds + 1):  # the first warms up
        before = timed("floor")
        for method in random.Random(turn).sample(methods, len(methods)):  # or each would follow the same other
            taken, after = timed(method), timed("floor")
            if turn:
                seconds[method].append(taken)
                seconds["floor"].append(after)
                # the machine itself is faster in one minute than in another, so the floor is timed on either side
                over_floor[method].append(2 * taken / (before + after))
            before = after
    return {
        "kind": kind,
        "batch": batch,
        "steps": steps,
        "rounds": rounds,
        "seconds": {m: statistics.median(s) for m, s in seconds.items()},
        "over_floor": {"floor": [1.0], **over_floor},
        "errors": errors,
    }


def measure_memory(kind: str, batch: int, steps: int, methods: tuple[str, ...]) -> dict[str, Any]:
    """Peak of live tensor bytes, and growth of resident memory in a process of its own, for each method."""
    case = Case(kind, batch, steps)
    peaks = {}
    for method in methods:
        with LiveTensorMeter() as meter:
            case.gradient(method)
        peaks[method] = meter.peak_bytes
    grown = {method: resident_growth(kind, batch, steps, method) for method in methods}
    return {"kind": kind, "batch": batch, "steps": steps, "peak_bytes": peaks, "rss_bytes": grown}


def resident_growth(kind: str, batch: int, steps: int, method: str) -> int:
    command = [sys.executable, "-m", "benchmarks.cost", "--rss", kind, str(batch), str(steps), method]
    threads = ["--threads", str(torch.get_num_threads())]
    done = subprocess.run([*command, *threads], check=True, capture_output=True, text=True, cwd=HERE.parent)
    return int(done.stdout.split()[-1])


def print_resident_growth(kind: str, batch: int, steps: int, method: str) -> None:
    """Growth of this process: the high-water mark during a gradient less what was resident after one step."""
    Case(kind, batch, 1).gradient("floor")
    case = Case(kind, batch, steps)
    print(growth_during(lambda: case.gradient(method)))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measure(rounds: int, steps: int, spans: tuple[int, int], batches: tuple[int, ...]) -> dict[str, Any]:
    times, memory = [], []
    for kind in ("x_T", "weights"):
        for batch in batches:
            times.append(measure_times(kind, batch, steps, rounds))
            print(json.dumps(times[-1]), flush=True)
    for kind in ("x_T", "weights"):
        for span in spans:
            memory.append(measure_memory(kind, 1, span, METHODS))
            print(json.dumps(memory[-1]), flush=True)
    machine = {"processor": processor(), "threads": torch.get_num_threads(), "python": platform.python_version()}
    return {"machine": {**machine, "torch": torch.__version__}, "times": times, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed turns of each method")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of the timings")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--quick", action="store_true", help="one round of few steps, batch 1; writes nothing")
    parser.add_argument("--rss", nargs=4, metavar=("KIND", "BATCH", "STEPS", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    if options.rss:
        kind, batch, steps, method = options.rss
        print_resident_growth(kind, int(batch), int(steps), method)
    elif options.quick:
        measure(1, 2, (2, 4), (1,))
    else:
        if not options.page:
            result = measure(options.rounds, options.steps, (10, 80), (1, 4))
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
        write_page(json.loads(RESULT.read_text()), PAGE)


if __name__ == "__main__":
    main()
