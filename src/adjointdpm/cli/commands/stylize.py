"""The options of `adjointdpm stylize`; those without a default take the configuration's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli import task_options as task
from adjointdpm.cli.shell import Shell

__all__ = ["register"]

LOSS, WEIGHTS, REPORT = "Loss", "What is fine-tuned", "Images to look at"


def register(app: typer.Typer) -> None:
    app.command(epilog=opt.EPILOG)(stylize)


def stylize(
    ctx: typer.Context,
    style: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="The reference image.")
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Prompt to learn on (repeatable). [default: eight plain nouns]"),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", help="Seed of a noise; every prompt goes with every one (repeatable). [default: 0, 1]"),
    ] = None,
    style_scale: Annotated[
        float | None,
        typer.Option(
            "--style-scale", callback=opt.finite, help="Size of the style's texture. [default: 1]", rich_help_panel=LOSS
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            help="Network of the losses: vgg19, efficientnet, classifier, module:function. [default: the first of "
            "these that is installed]",
            rich_help_panel=LOSS,
        ),
    ] = None,
    content_features: Annotated[
        str | None,
        typer.Option("--content-features", help="Another one for the content.", rich_help_panel=LOSS),
    ] = None,
    style_weight: Annotated[
        float | None,
        typer.Option("--style-weight", callback=opt.finite, help="w_s. [default: 1]", rich_help_panel=LOSS),
    ] = None,
    content_weight: Annotated[
        float | None,
        typer.Option("--content-weight", callback=opt.finite, help="w_c. [default: 1]", rich_help_panel=LOSS),
    ] = None,
    style_layers: Annotated[
        list[int] | None,
        typer.Option(
            "--style-layer",
            help="Layer of the Gram matrices (repeatable). [default: all but the deepest]",
            rich_help_panel=LOSS,
        ),
    ] = None,
    content_layers: Annotated[
        list[int] | None,
        typer.Option(
            "--content-layer",
            help="Layer of the content (repeatable). [default: the deepest but one]",
            rich_help_panel=LOSS,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="lora, cross-attention or all. [default: lora]", rich_help_panel=WEIGHTS),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="Rank of the LoRA. [default: 8]", rich_help_panel=WEIGHTS)
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha", callback=opt.finite, help="Scale of the LoRA. [default: its rank]", rich_help_panel=WEIGHTS
        ),
    ] = None,
    init_seed: Annotated[
        int | None,
        typer.Option("--init-seed", min=0, help="Of the LoRA's first values. [default: 0]", rich_help_panel=WEIGHTS),
    ] = None,
    preset: task.Preset = None,
    config: task.Config = None,
    negative: task.Negative = None,
    steps: task.Steps = None,
    guidance: task.Guidance = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="How often each pair has its turn. [default: 20]")
    ] = None,
    pairs_per_step: Annotated[
        int | None, typer.Option("--pairs-per-step", min=1, help="Pairs in each AdamW step. [default: 4]")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr", callback=opt.finite, help="Learning rate. [default: 2e-3; cross-attention 1e-4, all 5e-5]"
        ),
    ] = None,
    lr_schedule: Annotated[
        str | None, typer.Option("--lr-schedule", help="constant, linear, cosine. [default: cosine]")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", callback=opt.finite, help="Of AdamW. [default: 0.01]")
    ] = None,
    clip_norm: Annotated[
        float | None, typer.Option("--clip-norm", callback=opt.finite, help="Longest gradient of a step.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", min=1, help="Stop after so many steps without a lower loss.")
    ] = None,
    batch: task.Batch = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help='Such as 2GB or "auto": as many network graphs as fit are not run again.'
        ),
    ] = None,
    checkpoint_every: task.CheckpointEvery = None,
    mixed_precision: task.MixedPrecision = None,
    tracker: task.Tracker = None,
    validate_every: Annotated[
        int | None,
        typer.Option(
            "--validate-every",
            min=0,
            help="Steps between validation images; 0: none. [default: 20]",
            rich_help_panel=REPORT,
        ),
    ] = None,
    validation_prompts: Annotated[
        list[str] | None,
        typer.Option("--validation-prompt", help="Prompt of these images (repeatable).", rich_help_panel=REPORT),
    ] = None,
    validation_seeds: Annotated[
        list[int] | None,
        typer.Option("--validation-seed", help="Seed of these images (repeatable).", rich_help_panel=REPORT),
    ] = None,
    unseen_prompts: Annotated[
        list[str] | None,
        typer.Option("--unseen-prompt", help="Prompt for the report only (repeatable).", rich_help_panel=REPORT),
    ] = None,
    unseen_seeds: Annotated[
        list[int] | None,
        typer.Option("--unseen-seed", help="Seed for the report only (repeatable).", rich_help_panel=REPORT),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            "--measure",
            help="Network that only measures, never optimised; none for none. [default: judge]",
            rich_help_panel=REPORT,
        ),
    ] = None,
    show: Annotated[
        int | None,
        typer.Option("--show", min=1, help="Images of each kind in the report. [default: 8]", rich_help_panel=REPORT),
    ] = None,
    out: Annotated[Path | None, task.out("stylized")] = None,
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
    """Fine-tune a model so that every image takes the style of one reference, by gradients through the whole sampler.

    Example: adjointdpm stylize starry_night.png --out starry
    """
    from adjointdpm.cli import stylize as command
    from adjointdpm.cli.models import ModelChoice

    given = {
        "out": out, "style": style, "prompts": prompts, "seeds": seeds, "style_scale": style_scale,
        "features": features, "content_features": content_features, "style_weight": style_weight,
        "content_weight": content_weight, "style_layers": style_layers, "content_layers": content_layers,
        "weights": weights, "rank": rank, "alpha": alpha, "init_seed": init_seed, "negative_prompt": negative,
        "steps": steps, "guidance_scale": guidance, "epochs": epochs, "pairs_per_step": pairs_per_step, "lr": lr,
        "lr_schedule": lr_schedule, "weight_decay": weight_decay, "clip_norm": clip_norm, "patience": patience,
        "batch_size": batch, "checkpoint_every": checkpoint_every, "mixed_precision": mixed_precision,
        "tracker": tracker, "validate_every": validate_every, "validation_prompts": validation_prompts,
        "validation_seeds": validation_seeds, "unseen_prompts": unseen_prompts, "unseen_seeds": unseen_seeds,
        "measure": measure, "show": show, "preset": preset,
    }  # fmt: skip
    road = {"solver": solver, "spacing": spacing, "form": form, "gradient": gradient, "memory": memory}
    return command.stylize(
        Shell.of(ctx.obj, json), given, config, resume, road, ModelChoice(model, variant, device, dtype)
    )
