"""The options of `adjointdpm invert-image`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli.shell import Shell

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("invert-image", epilog=opt.EPILOG)(invert_image)


def invert_image(
    ctx: typer.Context,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="Picture file.")],
    prompt: Annotated[str, typer.Option("--prompt", help="What the image shows; empty if unsaid.")] = "",
    steps: opt.Steps = 50,
    guidance: opt.Guidance = 1.0,
    out: opt.Out = Path("inverted"),
    force: opt.Force = False,
    solver: Annotated[str, typer.Option("--solver", help="Solver, both ways.", rich_help_panel=opt.ODE)] = "ab4",
    spacing: Annotated[str, typer.Option("--spacing", help="Steps of the ODE.", rich_help_panel=opt.ODE)] = "logsnr",
    form: opt.Form = None,
    model: opt.Model = None,
    variant: opt.Variant = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    json: opt.Json = False,
    debug: opt.Debug = False,
) -> int:
    """Find the noise that the model turns into a picture, and measure the round trip.

    Example: adjointdpm invert-image apple.png --prompt "red apple" --out apple
    """
    from adjointdpm.cli import invert_image as command
    from adjointdpm.cli.models import ModelChoice

    request = command.InversionRequest(
        image=image, prompt=prompt, steps=steps, guidance=guidance, out=out, force=force,
        solver=solver, spacing=spacing, form=form,
    )  # fmt: skip
    return command.invert_image(Shell.of(ctx.obj, json), request, ModelChoice(model, variant, device, dtype))
