"""The options of `adjointdpm table1`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli.shell import Shell

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command(epilog=opt.EPILOG)(table1)


def table1(
    ctx: typer.Context,
    quick: Annotated[
        bool, typer.Option("--quick", help="Minutes instead of hours: 16 noises, no Fréchet distance and KID.")
    ] = False,
    noises: Annotated[
        int | None, typer.Option("--noises", min=2, help="Noises of the endpoint error (default: 256).")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("--images", min=0, help="Images a cell of Fréchet distance and KID, 0 for none (default: 2000)."),
    ] = None,
    seed: opt.Seed = 0,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Noises at once in each thread (default: 32).")
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option("--real", metavar="DIR", help="Real images for a model of your own: standard FID."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="Prompts, one a line, of a text-conditioned model of your own."),
    ] = None,
    sprites: Annotated[
        Path | None,
        typer.Option(
            "--sprites", metavar="FILE", help="Drawings of the embedded model (default: .cache/zoo/sprites.npz)."
        ),
    ] = None,
    out: opt.Out = Path("table1"),
    model: opt.Model = None,
    variant: opt.Variant = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    json: opt.Json = False,
    debug: opt.Debug = False,
) -> int:
    """Repeat the paper's Table 1: eq. 6 against eq. 11 with AB4 at 10, 20 and 50 evaluations of the network.

    The same command goes on with an interrupted run.  Needs torchdiffeq: pip install torchdiffeq.
    """
    from adjointdpm.cli import table1 as command
    from adjointdpm.cli.models import ModelChoice

    request = command.Table1Request(
        quick=quick, noises=noises, images=images, seed=seed, batch=batch, real=real, prompts=prompts,
        sprites=sprites, out=out,
    )  # fmt: skip
    return command.table1(Shell.of(ctx.obj, json), request, ModelChoice(model, variant, device, dtype))
