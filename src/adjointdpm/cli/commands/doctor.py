"""The options of `adjointdpm doctor`."""

from __future__ import annotations

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli.shell import Shell

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command(epilog=opt.EPILOG)(doctor)


def doctor(ctx: typer.Context, json: opt.Json = False, debug: opt.Debug = False) -> int:
    """Print versions, device, threads and memory; what is missing, and the command that gets it."""
    from adjointdpm.cli import doctor as command

    return command.doctor(Shell.of(ctx.obj, json))
