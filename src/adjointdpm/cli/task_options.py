"""Options that the commands of tasks share, each for a field of `tasks.settings.TaskConfig`.

None means not given: then the settings file decides, else the preset, else the configuration's own default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adjointdpm.cli.options import finite

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", exists=True, dir_okay=False, help="Settings, YAML or JSON; options go first."
    ),
]


def out(folder: str) -> Any:
    """`--out` with the default `folder`, which a settings file may change."""
    return typer.Option("--out", metavar="DIR", help=f"Folder for the results, created if needed (default: {folder}).")


Preset = Annotated[
    str | None, typer.Option("--preset", help="paper: the paper's settings where nothing else is given.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, with its settings.")]
Negative = Annotated[str | None, typer.Option("--negative", help="Negative prompt of all images.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Sampling steps (default: 10).")]
Guidance = Annotated[float | None, typer.Option("--guidance", callback=finite, help="Guidance scale (default: 3).")]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Images at once (memory); changes nothing else (default: all).")
]
CheckpointEvery = Annotated[
    int | None, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints (default: 5).")
]
MixedPrecision = Annotated[
    str | None,
    typer.Option("--mixed-precision", help="no, bf16, or fp16 with a loss scale (default: no)."),
]
Tracker = Annotated[
    str | None, typer.Option("--tracker", help="none, tensorboard or wandb, besides the log (default: none).")
]
