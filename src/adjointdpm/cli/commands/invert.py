"""The options of `adjointdpm invert`; those without a default take the configuration's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli import task_options as task
from adjointdpm.cli.shell import Shell

__all__ = ["register"]

TARGET, SPACE = "Target (exactly one)", "Embedding"


def register(app: typer.Typer) -> None:
    app.command(epilog=opt.EPILOG)(invert)


def invert(
    ctx: typer.Context,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Base prompts, without the effect.")
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", help="Seed of a prompt's noise (repeatable; one, or one for each prompt) (default: 0)."),
    ] = None,
    effect: Annotated[
        str | None,
        typer.Option(
            "--effect", help="Target: a built-in effect, or module:function on images.", rich_help_panel=TARGET
        ),
    ] = None,
    effect_option: Annotated[
        list[str] | None,
        typer.Option("--effect-option", metavar="NAME=VALUE", help="Option of the effect.", rich_help_panel=TARGET),
    ] = None,
    target: Annotated[
        list[Path] | None,
        typer.Option(
            "--target",
            metavar="IMAGE",
            exists=True,
            dir_okay=False,
            help="Target: the edited image (repeatable, one for each pair of prompt and seed).",
            rich_help_panel=TARGET,
        ),
    ] = None,
    target_words: Annotated[
        str | None,
        typer.Option("--target-words", help="Target: what these words do to the prompt.", rich_help_panel=TARGET),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space", help="prompt (rows behind the text encoder) or token (default: prompt).", rich_help_panel=SPACE
        ),
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(
            "--placement", help="Prompt space: tail (last rows) or fill (A.1) (default: tail).", rich_help_panel=SPACE
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", help="Prompt space: how many rows (default: 8, all with fill).", rich_help_panel=SPACE),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", help="Token space: name of the token (default: <effect>).", rich_help_panel=SPACE),
    ] = None,
    vectors: Annotated[
        int | None, typer.Option("--vectors", help="Token space: how many vectors (default: 1).", rich_help_panel=SPACE)
    ] = None,
    init_word: Annotated[
        str | None, typer.Option("--init-word", help="Token space: word to start from.", rich_help_panel=SPACE)
    ] = None,
    preset: task.Preset = None,
    config: task.Config = None,
    negative: task.Negative = None,
    steps: task.Steps = None,
    guidance: task.Guidance = None,
    loss: Annotated[
        str | None, typer.Option("--loss", help="mse, perceptual, efficientnet, lpips, module:function (default: mse).")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="AdamW steps (default: 50).")] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", callback=opt.finite, help="Learning rate (default: 0.1; token space 0.02)."),
    ] = None,
    lr_schedule: Annotated[
        str | None, typer.Option("--lr-schedule", help="constant, linear, cosine (default: linear).")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", callback=opt.finite, help="Of AdamW (default: 0.01).")
    ] = None,
    pairs_per_step: Annotated[
        int | None, typer.Option("--pairs-per-step", min=1, help="Pairs in each step, taking turns (default: all).")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Pairs at once (default: all).")] = None,
    checkpoint_every: task.CheckpointEvery = None,
    mixed_precision: task.MixedPrecision = None,
    tracker: task.Tracker = None,
    unseen_prompt: Annotated[
        list[str] | None, typer.Option("--unseen-prompt", help="Prompt for the report only (repeatable).")
    ] = None,
    unseen_seed: Annotated[
        list[int] | None, typer.Option("--unseen-seed", help="Seed for the report only (repeatable).")
    ] = None,
    out: Annotated[Path | None, task.out("inversion")] = None,
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
    """Learn a text embedding that reproduces a visual effect, by gradients through the whole sampler.

    Example: adjointdpm invert "red apple" "blue fish" --effect sepia --out sepia
    """
    from adjointdpm.cli import invert as command
    from adjointdpm.cli.models import ModelChoice

    given = {
        "out": out, "prompts": prompts, "seeds": seeds, "negative_prompt": negative, "effect": effect,
        "effect_options": opt.key_values(effect_option), "target_images": target, "target_words": target_words,
        "space": space, "variant": placement, "rows": rows, "token": token, "vectors": vectors, "init_word": init_word,
        "steps": steps, "guidance_scale": guidance, "loss": loss, "epochs": epochs, "lr": lr,
        "lr_schedule": lr_schedule, "weight_decay": weight_decay, "pairs_per_step": pairs_per_step, "batch_size": batch,
        "checkpoint_every": checkpoint_every, "unseen_prompts": unseen_prompt, "unseen_seeds": unseen_seed,
        "preset": preset, "mixed_precision": mixed_precision, "tracker": tracker,
    }  # fmt: skip
    road = {"solver": solver, "spacing": spacing, "form": form, "gradient": gradient}
    return command.invert(
        Shell.of(ctx.obj, json), given, config, resume, road, ModelChoice(model, variant, device, dtype)
    )
