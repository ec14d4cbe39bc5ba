"""The options of `adjointdpm plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli.shell import Shell

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command(epilog=opt.EPILOG)(plan)


def plan(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Option("--prompt", help="What to paint while calls are measured.")] = "red apple",
    steps: opt.Steps = 50,
    guidance: opt.Guidance = 4.0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at once.")] = 1,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help='What may be used, such as 6GB or 800MiB, or "auto".'),
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="The gradient goes to the denoiser's weights too.")
    ] = False,
    branches: Annotated[
        str, typer.Option("--branches", help="Guidance: batched, or sequential at about half the peak.")
    ] = "batched",
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
    """Predict time and memory of a gradient with each engine, and the fastest exact one that fits.

    One network call of each kind is measured; nothing is saved.
    """
    from adjointdpm.cli import plan as command
    from adjointdpm.cli.models import ModelChoice

    request = command.PlanRequest(
        prompt=prompt, steps=steps, guidance=guidance, batch=batch, memory=memory, height=height, width=width,
        weights=weights, branches=branches, solver=solver, spacing=spacing, form=form,
    )  # fmt: skip
    return command.plan(Shell.of(ctx.obj, json), request, ModelChoice(model, variant, device, dtype))
