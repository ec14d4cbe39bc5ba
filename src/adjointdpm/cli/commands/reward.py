"""The options of `adjointdpm reward`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli import task_options as task
from adjointdpm.cli.shell import Shell

__all__ = ["register"]

WHAT, NOISE, SPACE, WEIGHTS = "What is optimised", "Noise", "Embedding", "Weights"


def register(app: typer.Typer) -> None:
    app.command(epilog=opt.EPILOG)(reward)


def reward(
    ctx: typer.Context,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Prompts (default: a few plain nouns).")
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", help="Seed of a noise, each with every prompt (repeatable; default: 0)."),
    ] = None,
    rewards: Annotated[
        list[str] | None,
        typer.Option(
            "--reward",
            metavar="[WEIGHT*]NAME[=ARG]",
            help="What to maximise (repeatable, summed): colourfulness, chroma, sharpness, jpeg[=QUALITY] (file size; "
            "a negative weight makes files small), classifier[=OBJECT], clip=FOLDER, or module:function of images "
            "and prompts (default: colourfulness).",
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            "--held-out",
            metavar="[WEIGHT*]NAME[=ARG]",
            help="A reward that is never optimised and tells hacking from success, or none (default: judge, on the "
            "embedded model).",
        ),
    ] = None,
    optimise: Annotated[
        str | None,
        typer.Option("--optimise", help="noise, embedding or weights (default: noise).", rich_help_panel=WHAT),
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(
            "--gradient",
            help="exact, full (plain backprop), or biased: truncated (DRaFT-K), random_truncation (AlignProp), "
            "one_step (default: exact).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    last_k: Annotated[
        int | None,
        typer.Option(
            "--last-k", min=1, help="Truncated: steps that are differentiated (default: 1).", rich_help_panel=WHAT
        ),
    ] = None,
    typicality: Annotated[
        str | None,
        typer.Option(
            "--typicality",
            help="What keeps the noise one that could have been drawn: none, norm (ReNO), concentration (DNO) "
            "(default: concentration).",
            rich_help_panel=NOISE,
        ),
    ] = None,
    typicality_weight: Annotated[
        float | None,
        typer.Option(
            "--typicality-weight", callback=opt.finite, help="Its weight (default: 0.01).", rich_help_panel=NOISE
        ),
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
            "--placement", help="tail (the last) or fill, all that are left (default: tail).", rich_help_panel=SPACE
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", help="How many rows (default: 8, all with fill).", rich_help_panel=SPACE),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="Name of the new token (default: <reward>).", rich_help_panel=SPACE)
    ] = None,
    vectors: Annotated[
        int | None, typer.Option("--vectors", help="Vectors of the token (default: 1).", rich_help_panel=SPACE)
    ] = None,
    init_word: Annotated[
        str | None, typer.Option("--init-word", help="Word that the token starts from.", rich_help_panel=SPACE)
    ] = None,
    train: Annotated[
        str | None,
        typer.Option("--train", help="lora, cross-attention or all (default: lora).", rich_help_panel=WEIGHTS),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="Rank of the LoRA (default: 8).", rich_help_panel=WEIGHTS)
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha", callback=opt.finite, help="Scale of the LoRA (default: its rank).", rich_help_panel=WEIGHTS
        ),
    ] = None,
    init_seed: Annotated[
        int | None,
        typer.Option(
            "--init-seed",
            min=0,
            help="Seed of the LoRA's start and of the turns (default: 0).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    noises: Annotated[
        str | None,
        typer.Option(
            "--noises",
            help="Fixed, those of the seeds, or fresh at each step (default: fresh for weights).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="alignprop: settings of TRL's AlignPropTrainer where nothing else is given."),
    ] = None,
    config: task.Config = None,
    negative: task.Negative = None,
    steps: task.Steps = None,
    guidance: task.Guidance = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=1, help="AdamW steps (default: 30 noise, 40 embedding, 60 weights)."),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            callback=opt.finite,
            help="Learning rate (default: 0.03 noise, 0.1 rows, 0.02 token, 0.0003 weights).",
        ),
    ] = None,
    lr_schedule: Annotated[
        str | None, typer.Option("--lr-schedule", help="constant, linear, cosine (default: linear).")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", callback=opt.finite, help="Of AdamW (default: 0).")
    ] = None,
    clip_norm: Annotated[
        float | None,
        typer.Option("--clip-norm", callback=opt.finite, help="Largest norm of the gradient (default: none)."),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", min=1, help="Stop after so many steps without a better one (default: never)."),
    ] = None,
    pairs_per_step: Annotated[
        int | None,
        typer.Option(
            "--pairs-per-step", min=1, help="Pairs of prompt and seed in each step, taking turns (default: all)."
        ),
    ] = None,
    batch: task.Batch = None,
    checkpoint_every: task.CheckpointEvery = None,
    mixed_precision: task.MixedPrecision = None,
    tracker: task.Tracker = None,
    unseen_prompt: Annotated[
        list[str] | None, typer.Option("--unseen-prompt", help="Prompt for the report only (repeatable).")
    ] = None,
    unseen_seed: Annotated[
        list[int] | None, typer.Option("--unseen-seed", help="Seed for the report only (repeatable).")
    ] = None,
    out: Annotated[Path | None, task.out("reward")] = None,
    resume: task.Resume = False,
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
    """Maximise any score of the images, by changing the noise, an embedding or the weights.

    Example: adjointdpm reward "cat" "rocket" --reward colourfulness --reward 0.1*classifier --out colourful

    A LoRA: adjointdpm reward "cat" "rocket" --optimise weights --reward my_rewards:aesthetic --out lora
    """
    from adjointdpm.cli import reward as command
    from adjointdpm.cli.models import ModelChoice

    given = {
        "out": out, "prompts": prompts, "seeds": seeds, "negative_prompt": negative, "rewards": rewards,
        "held_out": held_out, "optimise": optimise, "gradient": gradient, "last_k": last_k, "noises": noises,
        "init_seed": init_seed,
        "typicality": typicality, "typicality_weight": typicality_weight, "space": space, "variant": placement,
        "rows": rows, "token": token, "vectors": vectors, "init_word": init_word, "train": train, "rank": rank,
        "alpha": alpha, "preset": preset, "steps": steps, "guidance_scale": guidance, "epochs": epochs, "lr": lr,
        "lr_schedule": lr_schedule, "weight_decay": weight_decay, "clip_norm": clip_norm, "patience": patience,
        "pairs_per_step": pairs_per_step, "batch_size": batch, "checkpoint_every": checkpoint_every,
        "mixed_precision": mixed_precision, "tracker": tracker, "unseen_prompts": unseen_prompt,
        "unseen_seeds": unseen_seed,
    }  # fmt: skip
    road = {"solver": solver, "spacing": spacing, "form": form}
    return command.reward(
        Shell.of(ctx.obj, json), given, config, resume, road, ModelChoice(model, variant, device, dtype)
    )
