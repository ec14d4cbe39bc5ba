"""Options that several commands share, each declared once, so that they mean and say the same everywhere.

A value that is wrong on its face (steps 0, guidance NaN) is refused here, while the command line is read; what depends
on the model (steps beyond its schedule, unknown words) is refused by the library before any long work.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

MODEL, ODE, MACHINE = "Model", "ODE road", "Output for machines and for debugging"
EPILOG = "Exit codes: 0 done, 1 the run failed, 2 bad input and nothing was started, 130 / 143 interrupted."


def finite(value: float | None) -> float | None:
    """Callback of float options: NaN and infinities are no numbers to sample with."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def seed_range(value: int) -> int:
    """Callback of `--seed`: what a torch generator takes, with room for the seeds of further images."""
    if not 0 <= value < 2**62:
        raise typer.BadParameter(f"{value} is not between 0 and 2^62")
    return value


def key_values(pairs: list[str] | None, option: str | None = None) -> dict[str, Any] | None:
    """`["angle=30", "mode=soft"]` as a dictionary; values are read as JSON where they are JSON, else as text.

    `option` is named if a pair is none.
    """
    found: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=option)
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found or None


def names(text: str) -> tuple[str, ...]:
    """`"exact, full"` as a tuple of names."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="DIR|ID",
        help="Diffusers folder, or id on the model hub (a folder goes first). Default: the embedded model.",
        rich_help_panel=MODEL,
    ),
]
Variant = Annotated[
    str | None,
    typer.Option("--variant", help="Weight files of this variant, such as fp16.", rich_help_panel=MODEL),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="auto (cuda if there is one, else cpu), cpu, cuda, cuda:1, mps.", rich_help_panel=MODEL
    ),
]
DType = Annotated[
    str,
    typer.Option(
        "--dtype", help="Number format of the networks: float32, float16, bfloat16, float64.", rich_help_panel=MODEL
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", callback=seed_range, help="Seed of the noise; image i of a run draws from SEED + i.")
]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Number of sampling steps.")]
Guidance = Annotated[
    float,
    typer.Option(
        "--guidance", callback=finite, help="Guidance scale; 1 or less runs without guidance, as in diffusers."
    ),
]
Solver = Annotated[
    str | None,
    typer.Option(
        "--solver",
        help="Solve the probability-flow ODE with this, not the model's own scheduler: euler (= ddim), heun, rk4, "
        "ab1, ab2, ab3, ab4, dpmpp2m.",
        rich_help_panel=ODE,
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        "--spacing",
        help="Steps of the ODE: uniform, logsnr, quadratic, karras, leading, trailing, linspace.",
        rich_help_panel=ODE,
    ),
]
Form = Annotated[
    str | None, typer.Option("--form", help="Form of the ODE: raw, exponential, angle.", rich_help_panel=ODE)
]
Gradient = Annotated[
    str | None,
    typer.Option(
        "--gradient",
        help="exact, full (plain backprop) or adjoint (needs --solver) (default: exact).",
        rich_help_panel=ODE,
    ),
]
Height = Annotated[int | None, typer.Option("--height", min=1, help="Height in pixels; default: the model's own.")]
Width = Annotated[int | None, typer.Option("--width", min=1, help="Width in pixels; default: the model's own.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results, created if needed.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are already there.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.", rich_help_panel=MACHINE)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=MACHINE)]
