"""The options of `adjointdpm guide`; those without a default take the configuration's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli import task_options as task
from adjointdpm.cli.shell import Shell

__all__ = ["register"]

PLACE, LOOK, GIVEN, HOW = "Where the object stands", "How it looks", "Given pictures", "Optimisation"


def register(app: typer.Typer) -> None:
    app.command(epilog=opt.EPILOG)(guide)


def guide(
    ctx: typer.Context,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="What to paint; each from every seed.")
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Seed of a starting noise (repeatable) (default: 0 1 2 3).")
    ] = None,
    box: Annotated[
        str | None,
        typer.Option("--box", metavar="L,T,R,B", help="Its bounding box in pixels.", rich_help_panel=PLACE),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", metavar="IMAGE", help="Its outline, white on black.", rich_help_panel=PLACE),
    ] = None,
    size: Annotated[
        float | None,
        typer.Option("--size", callback=opt.finite, help="Share of the picture, 0 to 1.", rich_help_panel=PLACE),
    ] = None,
    saliency: Annotated[
        str | None,
        typer.Option(
            "--saliency",
            help="What counts as the object: border (unlike the picture's edge), features, module:function "
            "(default: border).",
            rich_help_panel=PLACE,
        ),
    ] = None,
    color: Annotated[
        str | None, typer.Option("--color", help="Its mean colour: red, '#d02020' …", rich_help_panel=LOOK)
    ] = None,
    symmetry: Annotated[
        str | None,
        typer.Option("--symmetry", help="left-right, top-bottom, both, half-turn.", rich_help_panel=LOOK),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="IMAGE", help="Picture of which a part stays.", rich_help_panel=GIVEN),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="IMAGE", help="Mask of that part, white where it stays.", rich_help_panel=GIVEN),
    ] = None,
    keep_box: Annotated[
        str | None, typer.Option("--keep-box", metavar="L,T,R,B", help="The part as a box.", rich_help_panel=GIVEN)
    ] = None,
    sketch: Annotated[
        Path | None,
        typer.Option("--sketch", metavar="IMAGE", help="Line drawing that edges follow.", rich_help_panel=GIVEN),
    ] = None,
    sketch_blur: Annotated[
        float | None,
        typer.Option(
            "--sketch-blur",
            callback=opt.finite,
            help="How far a line may be missed, in pixels (default: 1).",
            rich_help_panel=GIVEN,
        ),
    ] = None,
    low_resolution: Annotated[
        Path | None,
        typer.Option("--low-res", metavar="IMAGE", help="Small picture to agree with.", rich_help_panel=GIVEN),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective", help="Your own: module:function of images (and prompts), losses (B,).", rich_help_panel=HOW
        ),
    ] = None,
    recogniser: Annotated[
        str | None,
        typer.Option(
            "--recogniser",
            help="Keep the object recognised: embedded (that model's classifier), none, module:function "
            "(default: embedded with the embedded model, for objects it knows).",
            rich_help_panel=HOW,
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            "--weight",
            metavar="TERM=NUMBER",
            help="Weight of a term: box, collage, mask, size, color, symmetry, image, sketch, low_resolution, "
            "objective, recogniser (repeatable; 0 leaves it out).",
            rich_help_panel=HOW,
        ),
    ] = None,
    optimise: Annotated[
        str | None,
        typer.Option(
            "--optimise",
            help="noise, embedding or both (default: both; noise with a sketch or if the model takes no changed rows).",
            rich_help_panel=HOW,
        ),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            "--candidates",
            min=1,
            help="Noises tried first for each seed; the best is optimised (default: 6).",
            rich_help_panel=HOW,
        ),
    ] = None,
    starts: Annotated[
        int | None,
        typer.Option(
            "--starts",
            min=1,
            help="Best candidates of each seed that are optimised; the best result is kept (default: 1).",
            rich_help_panel=HOW,
        ),
    ] = None,
    phrases: Annotated[
        list[str] | None,
        typer.Option(
            "--phrase",
            metavar="TEXT",
            help="Wording that candidates take turns with, such as '{prompt} at left' (repeatable; '{prompt}' alone: "
            "none) (default: the embedded model's words for the place).",
            rich_help_panel=HOW,
        ),
    ] = None,
    move_noise: Annotated[
        bool | None,
        typer.Option(
            "--move-noise/--no-move-noise",
            help="Try each noise moved to the place that is asked for, too (default: move-noise).",
            rich_help_panel=HOW,
        ),
    ] = None,
    blend: Annotated[
        list[float] | None,
        typer.Option(
            "--blend",
            help="Amount of a guess of the picture to try in each noise (repeatable; 0: none) (default: 0.4 0.8 where "
            "box, mask, image or low-res says what it looks like).",
            rich_help_panel=HOW,
        ),
    ] = None,
    updates: Annotated[
        int | None, typer.Option("--updates", min=1, help="AdamW steps (default: 50).", rich_help_panel=HOW)
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr", callback=opt.finite, help="Learning rate of the noise (default: 0.1).", rich_help_panel=HOW
        ),
    ] = None,
    embedding_lr: Annotated[
        float | None,
        typer.Option(
            "--embedding-lr", callback=opt.finite, help="And of the embedding (default: 0.06).", rich_help_panel=HOW
        ),
    ] = None,
    lr_schedule: Annotated[
        str | None,
        typer.Option(
            "--lr-schedule", help="constant, linear, cosine, plateau (default: plateau).", rich_help_panel=HOW
        ),
    ] = None,
    plateau: Annotated[
        int | None,
        typer.Option(
            "--plateau",
            min=1,
            help="Updates without a better loss after which an image's rate is halved (default: 8).",
            rich_help_panel=HOW,
        ),
    ] = None,
    shell: Annotated[
        bool | None,
        typer.Option("--shell/--no-shell", help="Keep each noise at its length (default: shell).", rich_help_panel=HOW),
    ] = None,
    typicality: Annotated[
        float | None,
        typer.Option(
            "--typicality", callback=opt.finite, help="Weight of the penalty on untypical noise.", rich_help_panel=HOW
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", min=1, help="Stop after so many steps without progress.", rich_help_panel=HOW),
    ] = None,
    config: task.Config = None,
    negative: task.Negative = None,
    steps: task.Steps = None,
    guidance: task.Guidance = None,
    batch: task.Batch = None,
    checkpoint_every: task.CheckpointEvery = None,
    mixed_precision: task.MixedPrecision = None,
    tracker: task.Tracker = None,
    out: Annotated[Path | None, task.out("guided")] = None,
    resume: task.Resume = False,
    solver: opt.Solver = None,
    spacing: opt.Spacing = None,
    form: opt.Form = None,
    gradient: opt.Gradient = None,
    model: opt.Model = None,
    variant: opt.Variant = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    json: opt.Json = False,
    debug: opt.Debug = False,
) -> int:
    """Put the object where a box or mask says, give it a size or colour, keep part of a picture, follow a sketch.

    Starting noise and text embedding are optimised by exact gradients through the whole sampler.
    Example: adjointdpm guide "small 3d apple on blue background" --box 0,0,32,32 --out corner
    """
    from adjointdpm.cli import guide as command
    from adjointdpm.cli.models import ModelChoice

    given = {
        "out": out, "prompts": prompts, "seeds": seeds, "box": command.edges(box, "--box"), "mask": mask,
        "size": size, "saliency": saliency, "color": color, "symmetry": symmetry, "image": image, "keep": keep,
        "keep_box": command.edges(keep_box, "--keep-box"), "sketch": sketch, "sketch_blur": sketch_blur,
        "low_resolution": low_resolution, "objective": objective, "recogniser": recogniser,
        "weights": opt.key_values(weight, "--weight"), "optimise": optimise, "candidates": candidates, "starts": starts,
        "phrases": phrases, "blend": blend,
        "move_noise": move_noise, "updates": updates,
        "lr": lr, "embedding_lr": embedding_lr, "lr_schedule": lr_schedule, "plateau": plateau, "shell": shell,
        "typicality": typicality, "patience": patience, "negative_prompt": negative, "steps": steps,
        "guidance_scale": guidance, "batch_size": batch, "checkpoint_every": checkpoint_every,
        "mixed_precision": mixed_precision, "tracker": tracker,
    }  # fmt: skip
    road = {"solver": solver, "spacing": spacing, "form": form, "gradient": gradient}
    choice = ModelChoice(model, variant, device, dtype)
    return command.guide(Shell.of(ctx.obj, json), given, config, resume, road, choice)
