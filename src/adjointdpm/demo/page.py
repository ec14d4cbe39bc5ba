"""demo/report.html: what was made, what was measured, how to use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adjointdpm.demo.job import STEPS, TRAIN_PROMPTS, UNSEEN_PROMPTS, Check, Shown
from adjointdpm.report import Chart, Code, Facts, Pictures, Section, Table, Text, curves, render_report, to_pil
from adjointdpm.tasks.inversion.outcome import usage


def report(shown: list[Shown], checks: list[Check], record: dict[str, Any], took: str, folder: Path) -> str:
    """The page as HTML."""
    count = len(UNSEEN_PROMPTS)
    sections = [_effect(one, count) for one in shown]
    sections += [_gradient(checks), _optimisation(shown), _use(shown[0], folder)]
    versions = record["environment"]["versions"]
    footer = (
        f"adjointdpm {versions['adjointdpm']}, torch {versions['torch']}, diffusers {versions['diffusers']}, "
        f"{record['environment']['threads']} threads; this run took {took}."
    )
    lead = (
        "A text-to-image diffusion model, steered by the gradient of a loss on its images. The gradient runs exactly "
        f"through all {STEPS} sampling steps and the decoder, and its memory does not grow with the number of steps."
    )
    return render_report("Visual effects, inverted into text embeddings", lead, sections, footer)


def _effect(one: Shown, count: int) -> Section:
    pictures = [to_pil(images[:count]) for images in (one.plain, one.ours, one.true)]
    before, true, after = one.recognised
    caption = (
        f"Objects and noises that the optimisation never saw. Over {len(one.prompts)} such images the embedding closes "
        f"{100 * one.gap:.0f} % of the gap between the plain prompt and the true effect (median, mean squared error; "
        f"{100 * one.feature_gap:.0f} % in features of a network that nothing was optimised against). That network "
        f"names the object in {before} of {len(one.prompts)} plain images, in {true} with the true effect "
        f"and in {after} with the embedding."
    )
    heads = [prompt.replace(" background", "") for prompt in UNSEEN_PROMPTS]
    names = ["plain prompt", "with the learnt embedding", "true effect"]
    return Section(
        one.demonstration.title, [Text(one.demonstration.remark), Pictures(heads, pictures, names, caption, size=112)]
    )


def _gradient(checks: list[Check]) -> Section:
    rows = [
        (
            f"{c.steps}",
            "0 (bit equal)" if c.error == 0 else f"{c.error:.1e}",
            f"{c.exact_mb:.0f} MB",
            f"{c.full_mb:.0f} MB",
        )
        for c in checks
    ]
    text = (
        "The gradient of an image to its noise and its text, by this library and by plain backpropagation. Of all "
        "calls only the last of the denoiser and the decoder keep their graphs, so the peak stays where it is as the "
        "number of steps grows."
    )
    header = ["sampling steps", "relative difference", "peak, exact", "peak, plain backprop"]
    return Section(
        "The gradient is exact",
        [
            Text(text),
            Table(header, rows, "Peaks are bytes of live tensors beyond the weights, one image, with guidance."),
        ],
    )


def _optimisation(shown: list[Shown]) -> Section:
    names = [one.demonstration.effect for one in shown]
    panels = {
        "loss": {name: one.result.losses for name, one in zip(names, shown, strict=True)},
        "norm of the gradient": {name: one.result.grad_norms for name, one in zip(names, shown, strict=True)},
    }
    losses = "; ".join(
        f"{one.demonstration.effect} from {one.result.losses[0]:.4f} to {min(one.result.losses):.4f}" for one in shown
    )
    facts = [
        ("learnt from", ", ".join(TRAIN_PROMPTS)),
        ("what is learnt", "the last 8 of the 16 rows of the text encoder's output, the same for every prompt"),
        (
            "optimiser",
            f"AdamW, {len(shown[0].result.losses)} steps, mean squared error to {len(TRAIN_PROMPTS)} target images",
        ),
        (
            "time",
            "; ".join(
                f"{o.demonstration.effect} {o.result.record['results']['optimisation_seconds']:.0f} s" for o in shown
            ),
        ),
    ]
    return Section(
        "Optimisation", [Chart(curves(panels, "step"), f"loss over steps: {losses}", width=720), Facts(facts)]
    )


def _use(one: Shown, folder: Path) -> Section:
    result = one.result

    def draw(what: str) -> str:
        return f"image = pipe({what}, num_inference_steps={STEPS}, guidance_scale=3).images[0]"

    code = usage(result.embedding, result.embedding_path, draw, UNSEEN_PROMPTS[0], folder)
    return Section("Use it in plain diffusers", [Code(code, "Runs as it is, without this library.")])
