"""The options of `adjointdpm generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli.shell import Shell

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command(epilog=opt.EPILOG)(generate)


def generate(
    ctx: typer.Context,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help="What to paint; several prompts in quotes.")
    ],
    negative: Annotated[str | None, typer.Option("--negative", help="What to steer away from (with guidance).")] = None,
    steps: opt.Steps = 20,
    guidance: opt.Guidance = 3.0,
    count: Annotated[int, typer.Option("--count", min=1, help="Images for each prompt.")] = 1,
    seed: opt.Seed = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images painted at once; changes nothing else.")] = 4,
    embedding: Annotated[
        Path | None,
        typer.Option("--embedding", metavar="FILE", help="Learnt by `adjointdpm invert`, or a textual inversion."),
    ] = None,
    noise: Annotated[
        Path | None,
        typer.Option("--noise", metavar="FILE", help="Start from this noise of `invert-image`, not from the seed's."),
    ] = None,
    out: opt.Out = Path("out"),
    force: opt.Force = False,
    height: opt.Height = None,
    width: opt.Width = None,
    solver: opt.Solver = None,
    spacing: opt.Spacing = None,
    form: opt.Form = None,
    model: opt.Model = None,
    variant: opt.Variant = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    json: opt.Json = False,
    debug: opt.Debug = False,
) -> int:
    """Paint images and save them as PNG files that record how they were made.

    Example: adjointdpm generate "a red apple" "a blue fish" --count 4 --out pictures
    """
    from adjointdpm.cli import generate as command
    from adjointdpm.cli.models import ModelChoice

    request = command.Request(
        prompts=tuple(prompts), negative=negative, steps=steps, guidance=guidance, count=count, seed=seed, batch=batch,
        embedding=embedding, noise=noise, out=out, force=force, height=height, width=width,
        solver=solver, spacing=spacing, form=form,
    )  # fmt: skip
    return command.generate(Shell.of(ctx.obj, json), request, ModelChoice(model, variant, device, dtype))
