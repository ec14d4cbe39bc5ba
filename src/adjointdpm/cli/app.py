"""The program: its commands in the order of the help; each is declared in a file of `cli/commands`."""

from __future__ import annotations

from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli.commands import (
    audit,
    check,
    doctor,
    generate,
    guide,
    invert,
    invert_image,
    plan,
    reward,
    stylize,
    table1,
)

COMMANDS = (generate, invert, invert_image, stylize, audit, guide, reward, plan, check, table1, doctor)
app = typer.Typer(
    name="adjointdpm",
    help="Exact constant-memory gradients through diffusion samplers, from the shell.",
    epilog=opt.EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from adjointdpm import __version__

        typer.echo(f"adjointdpm {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for command in COMMANDS:
    command.register(app)
