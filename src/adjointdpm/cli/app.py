"""The commands and their options; each hands over to the module of its name, which is imported only then.

Signatures are the reference of the command line: `--help` and `docs/cli/*.txt` are generated from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options as opt
from adjointdpm.cli.shell import Shell

TARGET, SPACE = "Target (exactly one)", "Embedding"
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
    guidance: opt.Guidance = 3.0,
    count: Annotated[int, typer.Option("--count", min=1, help="Images for each prompt.")] = 1,
    seed: opt.Seed = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images painted at once; changes nothing else.")] = 4,
    embedding: Annotated[
        Path | None,
        typer.Option("--embedding", metavar="FILE", help="Learnt by `adjointdpm invert`, or a textual inversion."),
    ] = None,
    noise: Annotated[
        Path | None,
        typer.Option("--noise", metavar="FILE", help="Start from this noise of `invert-image`, not from the seed's."),
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
        embedding=embedding, noise=noise, out=out, force=force, height=height, width=width,
        solver=solver, spacing=spacing, form=form,
    )  # fmt: skip
    return command.generate(_shell(ctx, json), request, ModelChoice(model, variant, device, dtype))


@app.command(epilog=EPILOG)
def invert(
    ctx: typer.Context,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Base prompts, without the effect.")
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", help="Seed of a prompt's noise (repeatable; one, or one for each prompt). [default: 0]"),
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
            "--space", help="prompt (rows behind the text encoder) or token. [default: prompt]", rich_help_panel=SPACE
        ),
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(
            "--placement", help="Prompt space: tail (last rows) or fill (A.1). [default: tail]", rich_help_panel=SPACE
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", help="Prompt space: how many rows. [default: 8, all with fill]", rich_help_panel=SPACE),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", help="Token space: name of the token. [default: <effect>]", rich_help_panel=SPACE),
    ] = None,
    vectors: Annotated[
        int | None, typer.Option("--vectors", help="Token space: how many vectors. [default: 1]", rich_help_panel=SPACE)
    ] = None,
    init_word: Annotated[
        str | None, typer.Option("--init-word", help="Token space: word to start from.", rich_help_panel=SPACE)
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="paper: the paper's settings where nothing else is given.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.json", exists=True, dir_okay=False, help="Settings; options go first."),
    ] = None,
    negative: Annotated[str | None, typer.Option("--negative", help="Negative prompt of all images.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampling steps. [default: 10]")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", callback=opt.finite, help="Guidance scale. [default: 3]")
    ] = None,
    loss: Annotated[
        str | None, typer.Option("--loss", help="mse, perceptual, efficientnet, lpips, module:function. [default: mse]")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="AdamW steps. [default: 50]")] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", callback=opt.finite, help="Learning rate. [default: 0.1; token space 0.02]"),
    ] = None,
    lr_schedule: Annotated[
        str | None, typer.Option("--lr-schedule", help="constant, linear, cosine. [default: linear]")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", callback=opt.finite, help="Of AdamW. [default: 0.01]")
    ] = None,
    pairs_per_step: Annotated[
        int | None, typer.Option("--pairs-per-step", min=1, help="Pairs in each step, taking turns. [default: all]")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Pairs at once. [default: all]")] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints. [default: 5]")
    ] = None,
    unseen_prompt: Annotated[
        list[str] | None, typer.Option("--unseen-prompt", help="Prompt for the report only (repeatable).")
    ] = None,
    unseen_seed: Annotated[
        list[int] | None, typer.Option("--unseen-seed", help="Seed for the report only (repeatable).")
    ] = None,
    out: opt.Out = Path("inversion"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, with its settings.")] = False,
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
        "preset": preset,
    }  # fmt: skip
    road = {"solver": solver, "spacing": spacing, "form": form, "gradient": gradient}
    return command.invert(_shell(ctx, json), given, config, resume, road, ModelChoice(model, variant, device, dtype))


@app.command("invert-image", epilog=EPILOG)
def invert_image(
    ctx: typer.Context,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="Picture file.")],
    prompt: Annotated[str, typer.Option("--prompt", help="What the image shows; empty if unsaid.")] = "",
    steps: opt.Steps = 50,
    guidance: opt.Guidance = 1.0,
    out: opt.Out = Path("inverted"),
    force: opt.Force = False,
    solver: Annotated[str, typer.Option("--solver", help="Solver, both ways.", rich_help_panel=opt.ODE)] = "ab4",
    spacing: Annotated[str, typer.Option("--spacing", help="Steps of the ODE.", rich_help_panel=opt.ODE)] = "logsnr",
    form: opt.Form = None,
    model: opt.Model = None,
    variant: opt.Variant = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    json: opt.Json = False,
    debug: opt.Debug = False,
) -> int:
    """Find the noise that the model turns into a picture, and measure the round trip.

    Example: adjointdpm invert-image apple.png --prompt "red apple" --out apple
    """
    from adjointdpm.cli import invert_image as command
    from adjointdpm.cli.models import ModelChoice

    request = command.InversionRequest(
        image=image, prompt=prompt, steps=steps, guidance=guidance, out=out, force=force,
        solver=solver, spacing=spacing, form=form,
    )  # fmt: skip
    return command.invert_image(_shell(ctx, json), request, ModelChoice(model, variant, device, dtype))


@app.command(epilog=EPILOG)
def plan(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Option("--prompt", help="What to paint while calls are measured.")] = "red apple",
    steps: opt.Steps = 50,
    guidance: opt.Guidance = 4.0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at once.")] = 1,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help='What may be used, such as 6GB or 800MiB, or "auto".'),
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="The gradient goes to the denoiser's weights too.")
    ] = False,
    branches: Annotated[
        str, typer.Option("--branches", help="Guidance: batched, or sequential at about half the peak.")
    ] = "batched",
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
    """Predict time and memory of a gradient with each engine, and the fastest exact one that fits.

    One network call of each kind is measured; nothing is saved.
    """
    from adjointdpm.cli import plan as command
    from adjointdpm.cli.models import ModelChoice

    request = command.PlanRequest(
        prompt=prompt, steps=steps, guidance=guidance, batch=batch, memory=memory, height=height, width=width,
        weights=weights, branches=branches, solver=solver, spacing=spacing, form=form,
    )  # fmt: skip
    return command.plan(_shell(ctx, json), request, ModelChoice(model, variant, device, dtype))


@app.command(epilog=EPILOG)
def check(
    ctx: typer.Context,
    prompt: Annotated[
        str, typer.Option("--prompt", help="What to paint while the gradients are measured.")
    ] = "red apple",
    steps: opt.Steps = 6,
    guidance: opt.Guidance = 4.0,
    seed: opt.Seed = 0,
    engines: Annotated[
        str,
        typer.Option(
            "--engines",
            help="Some of full, exact, reversible, adjoint, adjoint:paper, truncated, random_truncation, one_step, "
            "with commas between.",
        ),
    ] = "full,exact,reversible,adjoint,adjoint:paper,truncated,random_truncation,one_step",
    wrt: Annotated[
        str, typer.Option("--wrt", help="Some of x_T, cond, guidance, weights, with commas between.")
    ] = "x_T,cond,guidance,weights",
    directions: Annotated[
        int, typer.Option("--directions", min=0, help="Finite differences for each of --wrt; 0 leaves them out.")
    ] = 1,
    solver: Annotated[str, typer.Option("--solver", help="Solver of the ODE road.", rich_help_panel=opt.ODE)] = "ab4",
    spacing: Annotated[str, typer.Option("--spacing", help="Its steps.", rich_help_panel=opt.ODE)] = "logsnr",
    model: opt.Model = None,
    variant: opt.Variant = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    json: opt.Json = False,
    debug: opt.Debug = False,
) -> int:
    """Measure the gradient error of each engine on a model, against plain backprop and finite differences.

    Exit code 1 if a gradient that should be exact is not.
    """
    from adjointdpm.cli import check as command
    from adjointdpm.cli.models import ModelChoice

    request = command.CheckRequest(
        prompt=prompt, steps=steps, guidance=guidance, seed=seed, engines=opt.names(engines), wrt=opt.names(wrt),
        directions=directions, solver=solver, spacing=spacing,
    )  # fmt: skip
    return command.check(_shell(ctx, json), request, ModelChoice(model, variant, device, dtype))


@app.command(epilog=EPILOG)
def table1(
    ctx: typer.Context,
    quick: Annotated[
        bool, typer.Option("--quick", help="Minutes instead of hours: 16 noises, no Fréchet distance and KID.")
    ] = False,
    noises: Annotated[
        int | None, typer.Option("--noises", min=2, help="Noises of the endpoint error (default: 256).")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("--images", min=0, help="Images a cell of Fréchet distance and KID, 0 for none (default: 2000)."),
    ] = None,
    seed: opt.Seed = 0,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Noises at once in each thread (default: 32).")
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option("--real", metavar="DIR", help="Real images for a model of your own: standard FID."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="Prompts, one a line, of a text-conditioned model of your own."),
    ] = None,
    sprites: Annotated[
        Path | None,
        typer.Option(
            "--sprites", metavar="FILE", help="Drawings of the embedded model (default: .cache/zoo/sprites.npz)."
        ),
    ] = None,
    out: opt.Out = Path("table1"),
    model: opt.Model = None,
    variant: opt.Variant = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    json: opt.Json = False,
    debug: opt.Debug = False,
) -> int:
    """Repeat the paper's Table 1: eq. 6 against eq. 11 with AB4 at 10, 20 and 50 evaluations of the network.

    The same command goes on with an interrupted run.  Needs torchdiffeq: pip install torchdiffeq.
    """
    from adjointdpm.cli import table1 as command
    from adjointdpm.cli.models import ModelChoice

    request = command.Table1Request(
        quick=quick, noises=noises, images=images, seed=seed, batch=batch, real=real, prompts=prompts,
        sprites=sprites, out=out,
    )  # fmt: skip
    return command.table1(_shell(ctx, json), request, ModelChoice(model, variant, device, dtype))


@app.command(epilog=EPILOG)
def doctor(ctx: typer.Context, json: opt.Json = False, debug: opt.Debug = False) -> int:
    """Print versions, device, threads and memory; what is missing, and the command that gets it."""
    from adjointdpm.cli import doctor as command

    return command.doctor(_shell(ctx, json))


def _shell(ctx: typer.Context, as_json: bool) -> Shell:
    """The shell that the boundary made, or a new one where the app is run without it."""
    return ctx.obj if isinstance(ctx.obj, Shell) else Shell(as_json)
