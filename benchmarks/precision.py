"""How far number formats and ways of running the network move an exact gradient: each against float64.

    python -m benchmarks.precision           # measures (minutes), writes benchmarks/results/precision.json and the page
    python -m benchmarks.precision --page    # writes docs/precision.md again from that file

The embedded model, guided, Euler (= DDIM) on the ODE road, decoding included, gradients to the noise, the conditioning
and the U-Net's weights, with float32 state except where it says otherwise.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import adjointdpm as ad
from adjointdpm.gradients.exact import Exact
from adjointdpm.numerics import cosine, relative_error

HERE = Path(__file__).parent
RESULT, PAGE = HERE / "results" / "precision.json", HERE.parent / "docs" / "precision.md"
PROMPT, SCALE, STEPS = "shaded apple on white background", 2.5, 20


@dataclass(frozen=True)
class Mode:
    """One way of running the network."""

    name: str
    dtype: torch.dtype = torch.float32
    settings: tuple[tuple[str, Any], ...] = ()
    prepare: Callable[[Any], None] = lambda pipe: None
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    loss_scale: float = 1.0


def compiled(pipe: Any) -> None:
    pipe.unet = torch.compile(pipe.unet)


def channels_last(pipe: Any) -> None:
    pipe.unet.to(memory_format=torch.channels_last)


def autocast() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


MODES = (
    Mode("float64", torch.float64),
    Mode("float32"),
    Mode("float32, plain backprop", settings=(("gradient", "full"),)),
    Mode("float32, branches one after the other", settings=(("branches", "sequential"),)),
    Mode("float32, channels last", prepare=channels_last),
    Mode("float32, `torch.compile`", prepare=compiled),
    Mode("bfloat16 autocast", around=autocast),
    Mode("bfloat16", torch.bfloat16),
    Mode("bfloat16, sums in float32", torch.bfloat16, (("gradient", Exact(accumulate=torch.float32)),)),
    Mode("bfloat16, plain backprop", torch.bfloat16, (("gradient", "full"),)),
    Mode("float16", torch.float16),
    Mode("float16, loss × 4096", torch.float16, loss_scale=4096.0),
)


def measure(mode: Mode, steps: int) -> dict[str, Tensor]:
    """Image and gradients of one mode, in float64."""
    pipe = ad.zoo.emoji()
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cond, empty = ad.differentiable(pipe).encode_prompt(PROMPT, "")
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.to(mode.dtype)
    pipe.unet.requires_grad_(True)
    mode.prepare(pipe)
    names = ("x_T", "cond", "weights")
    gen = ad.differentiable(pipe, **{"solver": "euler", "wrt": names, **dict(mode.settings)})
    state = torch.float64 if mode.dtype == torch.float64 else torch.float32
    z, c = noise.to(state).requires_grad_(), cond.to(mode.dtype).requires_grad_()
    with mode.around():
        out = gen(
            prompt_embeds=c, negative_prompt_embeds=empty.to(mode.dtype), latents=z,
            num_inference_steps=steps, guidance_scale=SCALE,
        )  # fmt: skip
    loss = mode.loss_scale * (out.image_unclamped.double() - 0.3).square().mean()
    weights = [p for p in pipe.unet.parameters() if p.requires_grad]
    gx, gc, *gw = torch.autograd.grad(loss, [z, c, *weights])
    return {
        "image": out.image_unclamped.detach().double(),
        "x_T": gx.double() / mode.loss_scale,
        "cond": gc.double() / mode.loss_scale,
        "weights": torch.cat([g.double().flatten() for g in gw]) / mode.loss_scale,
    }


def run(steps: int) -> dict[str, Any]:
    want: dict[str, Tensor] = {}
    rows = []
    for mode in MODES:
        try:
            found = measure(mode, steps)
        except (RuntimeError, ArithmeticError, ValueError) as error:  # a format that this machine's kernels lack
            rows.append({"mode": mode.name, "failed": str(error).splitlines()[0][:160]})
            continue
        want = want or found
        row: dict[str, Any] = {"mode": mode.name}
        for name, value in found.items():
            row[name] = {"error": relative_error(value, want[name]), "cosine": cosine(value, want[name])}
        rows.append(row)
        print(mode.name, {k: f"{v['error']:.1e}" for k, v in row.items() if k != "mode"}, flush=True)
    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    return {"steps": steps, "machine": machine, "rows": rows}


def page(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        "# Precision: what a number format does to an exact gradient",
        "",
        "Written by `python -m benchmarks.precision`. The embedded model, one image, guided "
        f"({SCALE}), {result['steps']} steps of Euler (= DDIM) on the ODE road, decoding included; relative ℓ2 error "
        "of the image and of the gradients to the noise, the conditioning and all of the U-Net's weights, against the "
        "same in float64. The state of the ODE is float32 unless the row is float64. "
        f"torch {machine['torch']}, Python {machine['python']}, {machine['threads']} threads.",
        "",
        "| network | image | x_T | cond | weights | cosine, weights |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        if "failed" in row:
            lines.append(f"| {row['mode']} | does not run here: {row['failed']} | | | | |")
            continue
        errors = [f"{row[name]['error']:.1e}" for name in ("image", "x_T", "cond", "weights")]
        lines.append(f"| {row['mode']} | {' | '.join(errors)} | {row['weights']['cosine']:.4f} |")
    lines += [
        "",
        "*Exact* is said of the computation that ran: replay is bit equal to plain backprop in the same format, "
        "whatever that format is. How far that computation is from one without rounding is what the table shows. A "
        "guided sampler multiplies rounding by its own Jacobian, so errors are larger than the format's 1e-7 or 4e-3. "
        "`Exact(accumulate=torch.float32)` (for `ad.replay`: `accumulate=`) sums the weights' gradients over the calls "
        "in float32 and rounds once; it cannot repair what a bfloat16 network rounds inside each call. In float16 "
        "small gradients vanish, as in training; a scaled loss brings them back.",
        "",
        "Where a gradient explodes on its way back, `Exact(norms=True)` gives its norm at every call, and names the "
        "call in which a NaN or an infinity arose; `Exact(clip=1.0)` bounds the gradient that enters a call.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--page", action="store_true", help="write the page again from the committed figures")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    if not given.page:
        RESULT.write_text(json.dumps(run(given.steps), indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
