"""The options of `adjointdpm audit`; those without a default take the configuration's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli import task_options as task
from adjointdpm.cli.shell import Shell

__all__ = ["register"]

SUBJECT, SEARCH, FILTER, HARDEN = "Network under audit", "Search", "Filter mode", "Hardening"
EPILOG = (
    f"{opt.EPILOG} Here 3 means: done, and the verdict changed on no sample within the largest bound; with --images "
    "the noises that came nearest are kept. Rules of use, intended users, how to report a weakness: "
    "docs/responsible-use.md"
)


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(audit)


def audit(
    ctx: typer.Context,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROMPT]...", help="What is painted (default: plain objects of the embedded model)."),
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="classifier, or filter: rates only (default: classifier).")
    ] = None,
    noises: Annotated[int | None, typer.Option("--noises", min=1, help="Noises for each prompt (default: 2).")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Sample i has the noise of SEED + i.")] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            help="module:function, file.py:function, FILE.onnx, folder of a transformers classifier, safety_checker "
            "(default: the embedded model's).",
            rich_help_panel=SUBJECT,
        ),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            "--outputs",
            help="auto, logits, probabilities, log_probabilities, one_logit, one_probability (default: auto).",
            rich_help_panel=SUBJECT,
        ),
    ] = None,
    preprocess: Annotated[
        list[str] | None,
        typer.Option(
            "--preprocess", help="Step before the network, module:function (repeatable).", rich_help_panel=SUBJECT
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="Class of each prompt, number or name (repeatable).", rich_help_panel=SUBJECT),
    ] = None,
    class_name: Annotated[
        list[str] | None,
        typer.Option("--class-name", help="Name of each output in order (repeatable).", rich_help_panel=SUBJECT),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge", help="Says if an image still shows its class; named as a network.", rich_help_panel=SUBJECT
        ),
    ] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(
            "--transfer", help="Classifier that found images are shown to (repeatable).", rich_help_panel=SUBJECT
        ),
    ] = None,
    tau: Annotated[
        list[float] | None,
        typer.Option(
            "--tau",
            help="Bound of the change of the noise (repeatable) (default: 0.1 0.2 0.4).",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option("--norm", help="linf, l2 (as root mean square), shell (default: linf).", rich_help_panel=SEARCH),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            help="margin, cross_entropy, dlr; cosine in filter mode (default: margin).",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    target_class: Annotated[
        str | None,
        typer.Option("--target-class", help="The class to reach, number or name.", rich_help_panel=SEARCH),
    ] = None,
    optimiser: Annotated[
        str | None, typer.Option("--optimiser", help="sign, adam, apgd (default: sign).", rich_help_panel=SEARCH)
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option("--iterations", min=1, help="Gradient steps for each bound (default: 5).", rich_help_panel=SEARCH),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option("--restarts", min=1, help="Starts for each bound (default: 1).", rich_help_panel=SEARCH),
    ] = None,
    step_size: Annotated[
        float | None,
        typer.Option(
            "--step-size",
            callback=opt.finite,
            help="As a share of tau (default: 0.25; apgd 2).",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            help="random, best_of_n, one_step, adjoint (repeatable), or none (default: all).",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    images: Annotated[
        bool | None,
        typer.Option("--images/--no-images", help="Write images and noises found; classifier mode only."),
    ] = None,
    owner: Annotated[
        str | None, typer.Option("--owner", help="Who runs the filter; in the report.", rich_help_panel=FILTER)
    ] = None,
    purpose: Annotated[
        str | None, typer.Option("--purpose", help="What the audit is for; in the report.", rich_help_panel=FILTER)
    ] = None,
    harden: Annotated[
        bool | None,
        typer.Option(
            "--harden/--no-harden", help="Fine-tune on what is found and audit again.", rich_help_panel=HARDEN
        ),
    ] = None,
    harden_rounds: Annotated[
        int | None,
        typer.Option(
            "--harden-rounds", min=1, help="Search and fine-tuning in turn (default: 2).", rich_help_panel=HARDEN
        ),
    ] = None,
    harden_steps: Annotated[
        int | None,
        typer.Option("--harden-steps", min=1, help="AdamW steps of a round (default: 100).", rich_help_panel=HARDEN),
    ] = None,
    harden_lr: Annotated[
        float | None,
        typer.Option("--harden-lr", callback=opt.finite, help="Learning rate (default: 3e-4).", rich_help_panel=HARDEN),
    ] = None,
    held_out_noises: Annotated[
        int | None,
        typer.Option(
            "--held-out-noises", min=1, help="For each prompt, before and after (default: 2).", rich_help_panel=HARDEN
        ),
    ] = None,
    control_prompt: Annotated[
        list[str] | None,
        typer.Option("--control-prompt", help="Images whose verdict shall stay (repeatable).", rich_help_panel=HARDEN),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option("--generator", help="module:function that makes a diffusers pipeline.", rich_help_panel=opt.MODEL),
    ] = None,
    generator_option: Annotated[
        list[str] | None,
        typer.Option(
            "--generator-option", metavar="NAME=VALUE", help="Its arguments (repeatable).", rich_help_panel=opt.MODEL
        ),
    ] = None,
    preset: task.Preset = None,
    config: task.Config = None,
    negative: task.Negative = None,
    steps: task.Steps = None,
    guidance: task.Guidance = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Samples at once (default: 4).")] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option("--checkpoint-every", min=1, help="Rounds of batches between checkpoints (default: 1)."),
    ] = None,
    mixed_precision: task.MixedPrecision = None,
    tracker: task.Tracker = None,
    out: Annotated[Path | None, task.out("audit")] = None,
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
    """Measure how often a small change of the noise changes the verdict of a classifier or a content filter.

    For those who run such a network, to harden and compare it. Filter mode writes rates only and needs --owner and
    --purpose. Example: adjointdpm audit --tau 0.2 --tau 0.4 --out audit
    """
    from adjointdpm.cli import audit as command
    from adjointdpm.cli.models import ModelChoice

    given = {
        "out": out, "prompts": prompts, "mode": mode, "noises": noises, "seed": seed, "network": network,
        "outputs": outputs, "preprocessing": preprocess, "labels": label, "classes": class_name, "judge": judge,
        "transfer": transfer, "taus": tau, "norm": norm, "loss": loss, "target_class": target_class,
        "optimiser": optimiser, "iterations": iterations, "restarts": restarts, "step_size": step_size,
        "baselines": baseline, "images": images, "owner": owner, "purpose": purpose, "harden": harden,
        "harden_rounds": harden_rounds, "harden_steps": harden_steps, "harden_lr": harden_lr,
        "held_out_noises": held_out_noises, "control_prompts": control_prompt, "generator": generator,
        "generator_options": opt.key_values(generator_option), "preset": preset, "negative_prompt": negative,
        "steps": steps, "guidance_scale": guidance, "batch_size": batch, "checkpoint_every": checkpoint_every,
        "mixed_precision": mixed_precision, "tracker": tracker,
    }  # fmt: skip
    road = {"solver": solver, "spacing": spacing, "form": form}
    return command.audit(
        Shell.of(ctx.obj, json), given, config, resume, road, ModelChoice(model, variant, device, dtype)
    )
