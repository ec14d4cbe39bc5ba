"""The options of `adjointdpm check`."""

from __future__ import annotations

from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli.shell import Shell

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command(epilog=opt.EPILOG)(check)


def check(
    ctx: typer.Context,
    prompt: Annotated[
        str, typer.Option("--prompt", help="What to paint while the gradients are measured.")
    ] = "red apple",
    steps: opt.Steps = 6,
    guidance: opt.Guidance = 4.0,
    seed: opt.Seed = 0,
    engines: Annotated[
        str,
        typer.Option(
            "--engines",
            help="Some of full, exact, reversible, adjoint, adjoint:paper, truncated, random_truncation, one_step, "
            "with commas between.",
        ),
    ] = "full,exact,reversible,adjoint,adjoint:paper,truncated,random_truncation,one_step",
    wrt: Annotated[
        str, typer.Option("--wrt", help="Some of x_T, cond, guidance, weights, with commas between.")
    ] = "x_T,cond,guidance,weights",
    directions: Annotated[
        int, typer.Option("--directions", min=0, help="Finite differences for each of --wrt; 0 leaves them out.")
    ] = 1,
    solver: Annotated[str, typer.Option("--solver", help="Solver of the ODE road.", rich_help_panel=opt.ODE)] = "ab4",
    spacing: Annotated[str, typer.Option("--spacing", help="Its steps.", rich_help_panel=opt.ODE)] = "logsnr",
    model: opt.Model = None,
    variant: opt.Variant = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    json: opt.Json = False,
    debug: opt.Debug = False,
) -> int:
    """Measure the gradient error of each engine on a model, against plain backprop and finite differences.

    Exit code 1 if a gradient that should be exact is not.
    """
    from adjointdpm.cli import check as command
    from adjointdpm.cli.models import ModelChoice

    request = command.CheckRequest(
        prompt=prompt, steps=steps, guidance=guidance, seed=seed, engines=opt.names(engines), wrt=opt.names(wrt),
        directions=directions, solver=solver, spacing=spacing,
    )  # fmt: skip
    return command.check(Shell.of(ctx.obj, json), request, ModelChoice(model, variant, device, dtype))
