"""The report of a guidance run: pictures, what was asked and reached, how it went, and how to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adjointdpm.report import Block, Chart, Code, Facts, Pictures, Section, Table, Text, curves, render_report
from adjointdpm.runs import RunFolder
from adjointdpm.tasks.guide.terms import Term

if TYPE_CHECKING:
    from adjointdpm.tasks.guide.outcome import Outcome

__all__ = ["report_of"]


def report_of(outcome: Outcome, run: RunFolder) -> str:
    """The report as HTML."""
    columns, rows, names = outcome.grid()
    caption = (
        "Each row starts from the noise of its seed."
        + (" The dashed line is the box." if outcome.config.box else "")
        + (" The line is the outline of the mask." if outcome.config.mask else "")
    )
    pictures: list[Block] = [Pictures(columns, rows, names, caption, size=160)]
    if outcome.given:
        pictures.append(
            Pictures(list(outcome.given), [list(outcome.given.values())], caption="What was given.", size=128)
        )
    asked: list[Block] = [_table(outcome, term) for term in outcome.objective.terms if term.reading is not None]
    if outcome.recognised:
        asked.append(Text(_judged(list(outcome.recognised.values()))))
    sections = [
        Section("Images", pictures),
        Section("What was asked", asked),
        Section("Optimisation", [_curves(outcome), Facts(_facts(outcome))]),
        Section("Again", [Code(outcome.again, "The whole run."), Code(_generate(outcome, run), "One image.")]),
    ]
    steps, count = outcome.config.steps, outcome.objective.count
    lead = (
        f"{count} image{'s' if count > 1 else ''} guided by the exact gradient through all {steps} sampling steps: "
        f"{outcome.config.title}."
    )
    environment = run.record["environment"]
    versions = environment["versions"]
    footer = (
        f"adjointdpm {versions['adjointdpm']}, torch {versions['torch']}, diffusers {versions['diffusers']}; "
        f"{environment['threads']} threads on {environment['device']}; started {run.record['started']}."
    )
    return render_report("Guided images", lead, [s for s in sections if s.blocks], footer)


def _table(outcome: Outcome, term: Term) -> Block:
    rows = [
        [f"{prompt}, seed {seed}", *(f"{value:.3g}" for value in outcome.readings[i][term.name])]
        for i, (prompt, seed) in enumerate(outcome.config.cases)
    ]
    middle = [sorted(pair[term.name][k] for pair in outcome.readings) for k in (0, 1)]
    if len(rows) > 1:
        rows.append(["median", *(f"{values[(len(values) - 1) // 2]:.3g}" for values in middle)])
    direction = "more is better" if term.higher else "" if "wanted" in term.label else "less is better"
    caption = f"{term.label[:1].upper()}{term.label[1:]}, in {term.unit}{'; ' if direction else ''}{direction}."
    return Table(["image", "before", "after"], rows, caption)


def _judged(recognised: Sequence[tuple[bool, bool]]) -> str:
    before, after = (sum(column) for column in zip(*recognised, strict=True))
    return (
        f"A judge that nothing is optimised against names the prompt's object in {after} of {len(recognised)} images, "
        f"without guidance in {before}."
    )


def _curves(outcome: Outcome) -> Block:
    count = outcome.objective.count * outcome.config.starts
    losses = [loss / count for loss in outcome.history.losses]
    panels = {"loss, mean over the images": {"": losses}, "norm of the gradient": {"": outcome.history.grad_norms}}
    alt = f"loss over steps, from {losses[0]:.3g} to {losses[-1]:.3g}, and the norm of the gradient"
    return Chart(curves(panels, "step"), alt, width=720)


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    c, results = outcome.config, outcome.results()
    lengths = [case["noise"]["length"] for case in results["cases"]]
    deviances = [case["noise"]["deviance"] for case in results["cases"]]
    weights = ", ".join(f"{term.name} {term.weight:g}" for term in outcome.objective.terms)
    return [
        ("optimised", {"noise": "x_T", "embedding": "the embedding"}.get(str(c.optimise), "x_T and the embedding")),
        ("starts", _starts(outcome)),
        ("weights", weights + (f", typicality {c.typicality:g}" if c.optimise != "embedding" else "")),
        ("optimiser", f"AdamW, {results['updates']} steps, learning rate {c.lr:g} ({c.lr_schedule})"),
        ("sampler", f"{outcome.sampler}, {c.steps} steps, guidance {c.guidance_scale:g}"),
        ("noise", f"length {min(lengths):.3f} to {max(lengths):.3f} of the typical one; deviance of its spectrum "
                  f"{min(deviances):.2f} to {max(deviances):.2f} (typical: about 0.5)"),
        ("network", f"{results['network_calls']} calls, {results['recomputations']} recomputed, "
                    f"{results['vjps']} vector-Jacobian products"),
        ("time", f"{results['optimisation_seconds']:.0f} s"),
    ]  # fmt: skip


def _starts(outcome: Outcome) -> str:
    count, rolled = outcome.config.candidates, sum(move != (0, 0) for move in outcome.start.moves)
    drawn = "its own noise" if count == 1 else f"the best of {count} noises"
    if outcome.config.starts > 1:
        drawn = f"the best {outcome.config.starts} of {count} noises, side by side,"
    worded = sum(
        ours != theirs for ours, theirs in zip(outcome.objective.wordings, outcome.objective.prompts, strict=True)
    )
    mixed = sum(amount > 0 for amount in outcome.start.blends)
    changed = {"moved": rolled, "blended with a guess": mixed, "by another wording": worded}
    parts = [f"{drawn} for each seed", *(f"{n} of {outcome.objective.count} {how}" for how, n in changed.items() if n)]
    return "; ".join(parts)


def _generate(outcome: Outcome, run: RunFolder) -> str:
    noise = run.path / f"{outcome.stem(0)}.noise.safetensors"
    words = ["adjointdpm", "generate", outcome.objective.wordings[0], "--noise", str(noise)]
    if outcome.config.optimise != "noise":
        words += ["--embedding", str(run.path / f"{outcome.stem(0)}.embedding.safetensors")]
    words += ["--steps", str(outcome.config.steps), "--guidance", f"{outcome.config.guidance_scale:g}"]
    if outcome.config.negative_prompt:
        words += ["--negative", outcome.config.negative_prompt]
    for name, value in outcome.road():
        words += [f"--{name}", value]
    return shlex.join(words)
