"""The commands and their options; each hands over to the module of its name, which is imported only then.

Signatures are the reference of the command line: `--help` and `docs/cli/*.txt` are generated from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli.shell import Shell

EPILOG = "Exit codes: 0 done, 1 the run failed, 2 bad input and nothing was started, 130 / 143 interrupted."
app = typer.Typer(
    name="adjointdpm",
    help="Exact constant-memory gradients through diffusion samplers, from the shell.",
    epilog=EPILOG,
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


@app.command(epilog=EPILOG)
def generate(
    ctx: typer.Context,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help="What to paint; several prompts in quotes.")
    ],
    negative: Annotated[str | None, typer.Option("--negative", help="What to steer away from (with guidance).")] = None,
    steps: opt.Steps = 20,
    guidance: opt.Guidance = 4.0,
    count: Annotated[int, typer.Option("--count", min=1, help="Images for each prompt.")] = 1,
    seed: opt.Seed = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images painted at once; changes nothing else.")] = 4,
    embedding: Annotated[
        Path | None,
        typer.Option("--embedding", metavar="FILE", help="Learnt by `adjointdpm invert`, or a textual inversion."),
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
        embedding=embedding, out=out, force=force, height=height, width=width,
        solver=solver, spacing=spacing, form=form,
    )  # fmt: skip
    return command.generate(_shell(ctx, json), request, ModelChoice(model, variant, device, dtype))


@app.command(epilog=EPILOG)
def doctor(ctx: typer.Context, json: opt.Json = False, debug: opt.Debug = False) -> int:
    """Print versions, device, threads and memory; what is missing, and the command that gets it."""
    from adjointdpm.cli import doctor as command

    return command.doctor(_shell(ctx, json))


def _shell(ctx: typer.Context, as_json: bool) -> Shell:
    """The shell that the boundary made, or a new one where the app is run without it."""
    return ctx.obj if isinstance(ctx.obj, Shell) else Shell(as_json)
