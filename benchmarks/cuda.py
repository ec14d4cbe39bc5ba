"""Gradients on a CUDA device at the sizes that people use: seconds, peak memory and share of the device's FLOP/s.

    python -m benchmarks.cuda            # measures (some minutes), writes benchmarks/results/cuda.json and the page
    python -m benchmarks.cuda --page     # writes docs/cuda.md again from that file
    python -m benchmarks.cuda --tiny     # does everything run? on any device; its figures mean nothing

The U-Nets of Stable Diffusion 1.5 and SDXL with random weights in bfloat16, one guided image, 50 steps of Euler (=
DDIM) with a float32 state, gradients to the noise and the conditioning.  No library's pipeline is around them: the loop
is the ODE road's, and that of the floor and the checkpoints is written by hand.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import adjointdpm as ad
from adjointdpm.gradients.exact import Exact
from adjointdpm.models import Denoiser
from adjointdpm.numerics import relative_error, synchronize
from adjointdpm.schedules import from_scheduler_config, make_grid
from benchmarks.cuda_page import PAGE, page
from benchmarks.gradients import floor
from benchmarks.gradients.store import machine

RESULT = Path(__file__).parent / "results" / "cuda.json"
SCALE = 7.5
WEIGHTS = "exact, to all weights too"
ONCE = ("plain backprop", "adjoint")  # long, or too large
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


@dataclass(frozen=True)
class Size:
    """A U-Net and what it is called with: `unet` changes diffusers' defaults, which are Stable Diffusion 1's."""

    name: str
    latent: int
    width: int
    unet: dict[str, Any] = field(default_factory=dict)
    pooled: int = 0
    budgets: tuple[str, ...] = ("40GB", "70GB")


SD15 = Size("Stable Diffusion 1.5", 64, 768, {"attention_head_dim": 8})
SDXL = Size(
    "SDXL",
    128,
    2048,
    {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    1280,
)
TINY = Size(
    "tiny",
    16,
    32,
    {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    },
    16,
    budgets=("40MB",),
)


class Guided(nn.Module):
    """net(x (1, ...), t (1,), cond (2, L, D)) with both branches in one batch: the floor's one call."""

    def __init__(self, unet: nn.Module, added: dict[str, Tensor] | None) -> None:
        super().__init__()
        self.unet, self.added = unet, added

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        dtype = next(self.unet.parameters()).dtype
        out = self.unet(
            torch.cat([x, x]).to(dtype), t.expand(2), cond, added_cond_kwargs=self.added, return_dict=False
        )[0].to(x.dtype)
        return SCALE * out[:1] + (1 - SCALE) * out[1:]


class Bench:
    """One size on one device."""

    def __init__(self, size: Size, steps: int, device: torch.device) -> None:
        from diffusers import UNet2DConditionModel

        self.size, self.steps, self.device = size, steps, device
        with torch.device(device):
            torch.manual_seed(0)
            standard = torch.get_default_dtype()
            torch.set_default_dtype(torch.bfloat16)
            try:
                self.unet = UNet2DConditionModel(
                    sample_size=size.latent, cross_attention_dim=size.width, **size.unet
                ).eval()
            finally:
                torch.set_default_dtype(standard)
            self.unet.requires_grad_(False)
            self.x_T = torch.randn(1, 4, size.latent, size.latent)
            self.cond = torch.randn(2, 77, size.width, dtype=torch.bfloat16)
            self.added = None
            if size.pooled:
                ids = torch.tensor([1024.0, 1024, 0, 0, 1024, 1024]).expand(2, 6)
                self.added = {"text_embeds": torch.randn(2, size.pooled, dtype=torch.bfloat16), "time_ids": ids}
        self.schedule, self.prediction = from_scheduler_config(SCHEDULER)
        self.grid = make_grid(self.schedule, steps, "uniform", to_zero=False)
        self.guided = Guided(self.unet, self.added)
        clock = self.schedule.rho(self.grid.t).tolist()
        self.calls = [
            floor.Call(float(self.schedule.alpha(t)), float(self.schedule.net_time(t)), 1.0, 0.0, (), ((0, b - a),))
            for t, a, b in zip(self.grid.t, clock, clock[1:], strict=False)
        ]

    def net(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        added = {k: cond[k] for k in self.added} if self.added else None
        out: Tensor = self.unet(x, t, cond["text"], added_cond_kwargs=added, return_dict=False)[0]
        return out

    def loss(self, x: Tensor) -> Tensor:
        return (x.float() - 0.3).square().mean()

    def by_engine(self, gradient: Any, solver: str = "euler", branches: Any = "batched", net: Any = None) -> Any:
        """Gradients of x_T and the conditioning by an engine of the library."""
        # the module is registered by hand: `net` is a method, and the closure of a method is its object
        denoiser = Denoiser(net or self.net, self.schedule, self.prediction, branches=branches, modules=(self.unet,))

        def run() -> list[Tensor]:
            x, c = self.x_T.clone().requires_grad_(), self.cond.clone().requires_grad_()
            sides = [
                {"text": c[i : i + 1], **{k: v[i : i + 1] for k, v in (self.added or {}).items()}} for i in range(2)
            ]
            out = ad.sample(
                denoiser, x, cond=sides[0], uncond=sides[1], guidance=SCALE, grid=self.grid, solver=solver,
                gradient=gradient,
            )  # fmt: skip
            self.loss(out.x0).backward()  # type: ignore[no-untyped-call]
            return [g for g in (x.grad, c.grad) if g is not None]

        return run

    def to_weights(self) -> list[Tensor]:
        """Gradients of all weights by `exact`; what is compared is a few of them."""
        self.unet.requires_grad_(True)
        try:
            self.by_engine("exact")()
            return [p.grad for p in list(self.unet.parameters())[:8] if p.grad is not None]
        finally:
            self.unet.requires_grad_(False).zero_grad(set_to_none=True)

    def by_floor(self) -> list[Tensor]:
        first, last = float(self.grid.alpha[0]), float(self.grid.alpha[-1])
        c = self.cond.clone().requires_grad_()

        def slope(y: Tensor) -> Tensor:
            with torch.enable_grad():
                end = y.detach().requires_grad_()
                return torch.autograd.grad(self.loss(last * end), end)[0]

        a = floor.gradient(self.guided, self.calls, self.x_T / first, c, slope, True)
        assert c.grad is not None
        return [a / first, c.grad]

    def by_hand(self, reentrant: bool | None) -> list[Tensor]:
        """Plain backprop, or a checkpoint at each call."""
        first, last = float(self.grid.alpha[0]), float(self.grid.alpha[-1])
        x, c = self.x_T.clone().requires_grad_(), self.cond.clone().requires_grad_()

        def run(net: Any, call: floor.Call, z: Tensor, cond: Tensor) -> Tensor:
            inner = lambda z, cond: floor.field(net, call, z, cond)  # noqa: E731
            return checkpoint(inner, z, cond, use_reentrant=reentrant)  # type: ignore[no-any-return]

        end = floor.forward(self.guided, self.calls, x / first, c, floor.field if reentrant is None else run)
        self.loss(last * end).backward()  # type: ignore[no-untyped-call]
        return [g for g in (x.grad, c.grad) if g is not None]

    def flops(self) -> tuple[float, float]:
        """Of one guided call, and of it with its VJP to state and conditioning."""
        x, c = self.x_T.clone().requires_grad_(), self.cond.clone().requires_grad_()
        t = self.x_T.new_full((1,), 500.0)
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            self.guided(x, t, c)
        with FlopCounterMode(display=False) as both:
            self.guided(x, t, c).sum().backward()
        return float(forward.get_total_flops()), float(both.get_total_flops())

    def compiled(self) -> Any:
        """`exact` over `torch.compile` of the U-Net."""
        fast = torch.compile(self.unet)

        def net(x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
            added = {k: cond[k] for k in self.added} if self.added else None
            out: Tensor = fast(x, t, cond["text"], added_cond_kwargs=added, return_dict=False)[0]
            return out

        return self.by_engine("exact", net=net)

    def rows(self) -> dict[str, Callable[[], list[Tensor]]]:
        """Those that may not fit or take long last."""
        return {
            "exact": self.by_engine("exact"),
            "floor": self.by_floor,
            "checkpoint, reentrant": lambda: self.by_hand(True),
            "checkpoint, non-reentrant": lambda: self.by_hand(False),
            **{f"exact, {m}": self.by_engine(Exact(memory=m)) for m in self.size.budgets},
            "exact, branches one after the other": self.by_engine("exact", branches="sequential"),
            "reversible": self.by_engine("reversible", "belm"),
            "one_step": self.by_engine("one_step"),
            WEIGHTS: self.to_weights,
            "plain backprop": lambda: self.by_hand(None),
            "adjoint": self.by_engine("adjoint"),
        }


def empty(device: torch.device) -> None:
    """Nothing of what ran before is left, in memory or in the allocator's account."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def timed(run: Callable[[], list[Tensor]], device: torch.device) -> tuple[list[Tensor], float, int]:
    """Its result, seconds and peak bytes of the device's allocator."""
    empty(device)
    synchronize(device)
    began = time.perf_counter()
    found = run()
    synchronize(device)
    seconds = time.perf_counter() - began
    return found, seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def measure(size: Size, steps: int, device: torch.device, rounds: int, until: float) -> dict[str, Any]:
    """Every row `rounds` times, in turns, as long as the clock is before `until`; a row that fails says why."""
    bench = Bench(size, steps, device)
    forward, both = bench.flops()
    short = copy.copy(bench)  # the same network, three steps: allocator, autotuning, a budget's profile
    short.grid, short.calls = make_grid(bench.schedule, 3, "uniform", to_zero=False), bench.calls[:3]
    rows: dict[str, Any] = {}
    want: list[Tensor] = []
    runs, warm_up = bench.rows(), short.rows()
    for turn in range(rounds):
        for name, run in runs.items():
            row = rows.setdefault(name, {"seconds": []})
            if "failed" in row or time.perf_counter() > until or (turn and name in ONCE):
                continue
            try:
                if turn == 0 and name not in ONCE:
                    warm_up[name]()
                found, seconds, peak = timed(run, device)
            except torch.OutOfMemoryError:
                row["failed"] = "out of memory"
                continue
            except (RuntimeError, ValueError, ArithmeticError) as error:  # a refusal
                row["failed"] = f"{type(error).__name__}: {error}"[:300]
                continue
            want = want or [g.clone() for g in found]
            row["seconds"].append(seconds)
            row["peak_bytes"] = max(peak, row.get("peak_bytes", 0))
            if name != WEIGHTS:
                row["error"] = max(relative_error(g, w) for g, w in zip(found, want, strict=True))
            del found
            print(size.name, name, f"{seconds:.2f} s, {peak / 1e9:.2f} GB, {row.get('error')}", flush=True)
    weights = list(bench.unet.parameters())
    return {
        "size": size.name,
        "steps": steps,
        "parameters": sum(p.numel() for p in weights),
        "weight_bytes": sum(p.nbytes for p in weights),
        "forward_flops": forward,
        "forward_vjp_flops": both,
        "rows": rows,
    }


def measure_compiled(size: Size, steps: int, device: torch.device) -> dict[str, Any]:
    """The row of the compiled network; its first gradient compiles."""
    bench = Bench(size, steps, device)
    try:
        run = bench.compiled()
        _, first, _ = timed(run, device)
        _, seconds, peak = timed(run, device)
    except Exception as error:  # whatever the compiler of this machine says
        return {"seconds": [], "failed": f"{type(error).__name__}: {error}"[:300]}
    return {"seconds": [seconds], "peak_bytes": peak, "first_seconds": first}


def planned(device: torch.device, steps: int, tiny: bool) -> dict[str, Any]:
    """`ad.plan` of a whole pipeline against what then is measured: peaks and seconds."""
    from benchmarks.cuda_pipeline import stable_diffusion

    pipe = stable_diffusion(device, tiny)
    gen = ad.differentiable(pipe, wrt="x_T")
    memory = "60MB" if tiny else "40GB"
    plan = ad.plan(gen, steps, memory, prompt="apple", guidance_scale=SCALE)
    rows: dict[str, Any] = {}
    for row, settings in zip(plan.rows, ({}, {"memory": memory}), strict=False):
        variant = gen.with_(**settings)

        def run(variant: Any = variant) -> list[Tensor]:
            leaf = variant.prepare_latents(1, 0).requires_grad_()
            out = variant("apple", latents=leaf, num_inference_steps=steps, guidance_scale=SCALE)
            out.image_unclamped.square().mean().backward()
            return [leaf.grad]

        run()
        seconds, peak = min(timed(run, device)[1:] for _ in range(2))
        rows[row.engine] = {
            "seconds": seconds, "peak_bytes": peak, "planned_seconds": row.seconds, "planned_bytes": row.peak_bytes,
        }  # fmt: skip
        print("plan", row.engine, rows[row.engine], flush=True)
    return {"steps": steps, "memory": memory, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--page", action="store_true", help="write the page again from the committed figures")
    parser.add_argument("--tiny", action="store_true", help="a tiny network on any device; writes nothing")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3600.0, help="rows that begin later are left out")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if not given.page:
        until = time.perf_counter() + given.seconds
        if not given.tiny and not torch.cuda.is_available():
            parser.error("there is no CUDA device here; --tiny runs anywhere, --page writes the page again")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        sizes = [TINY] if given.tiny else [SD15, SDXL]
        steps = 4 if given.tiny else given.steps
        found: dict[str, Any] = {"machine": machine() | described(device), "sizes": []}

        def keep() -> None:
            if not given.tiny:
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(found, indent=1) + "\n")

        for size in sizes:
            found["sizes"].append(measure(size, steps, device, given.rounds, until))
            keep()
            empty(device)
        found["plan"] = planned(device, steps, given.tiny)
        keep()
        empty(device)
        if time.perf_counter() < until and not given.tiny:
            found["sizes"][0]["rows"]["exact, torch.compile"] = measure_compiled(sizes[0], steps, device)
            keep()
        if given.tiny:
            print(page(found))
            return
    PAGE.write_text(page(json.loads(given.out.read_text())))


def described(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": "cpu"}
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    synchronize(device)
    began = time.perf_counter()
    for _ in range(20):
        a @ a
    synchronize(device)
    return {
        "device": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "matmul_flops": 20 * 2 * 8192**3 / (time.perf_counter() - began),
    }


if __name__ == "__main__":
    main()
