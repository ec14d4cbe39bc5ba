"""What a stylization leaves behind: sheets, a report, the settings as a file, and the results in the record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adjointdpm.formats import save_png
from adjointdpm.report import (
    Block,
    Chart,
    Code,
    Facts,
    Pictures,
    Section,
    Table,
    Text,
    curves,
    picture_sheet,
    render_report,
    to_pil,
)
from adjointdpm.runs import RunFolder, atomic_write
from adjointdpm.tasks.loop import History
from adjointdpm.tasks.stylize.compare import Comparison
from adjointdpm.tasks.stylize.config import StylizeConfig
from adjointdpm.tasks.stylize.networks import Networks
from adjointdpm.tasks.stylize.validation import Validation
from adjointdpm.tasks.usage import drawing

__all__ = ["CONFIG_FILE", "REPORT_FILE", "WEIGHTS", "Outcome", "usage"]

REPORT_FILE, CONFIG_FILE, WEIGHTS = "report.html", "config.json", "weights"
Rows = Sequence[Mapping[str, Any]]


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def usage(config: StylizeConfig, generator: Any, folder: Path, component: str, prompt: str = "rocket") -> str:
    """Lines of Python that use the weights in plain diffusers, with a pipeline of the same model in `pipe`."""
    load = (
        f'pipe.load_lora_weights("{folder}")'
        if config.weights == "lora"
        else f'pipe.{component} = type(pipe.{component}).from_pretrained("{folder / component}")'
    )
    return f"{load}\n{drawing(generator, config, repr(prompt))}"


@dataclass(frozen=True)
class Outcome:
    """Everything that is known at the end of a run; `write` puts it into the run's folder."""

    config: StylizeConfig
    networks: Networks
    style: Tensor
    history: History
    comparisons: Sequence[Comparison]
    validation: Validation
    again: str

    def write(self, run: RunFolder, terms: Rows) -> None:
        """Sheets, settings and report first, the record last; `terms` are the rows of style and content by step."""
        for comparison in self.comparisons:
            heads, rows, names = comparison.grid(self.config.show)
            save_png(picture_sheet(rows, heads, names), run.path / f"{comparison.title.replace(' ', '-')}.png")
        settings = self.config.model_dump(mode="json", exclude={"out", "preset"})
        atomic_write(run.path / CONFIG_FILE, json.dumps(settings, indent=1, ensure_ascii=False))
        atomic_write(run.path / REPORT_FILE, self.report(run, terms))
        run.finish("finished", self.results(terms))

    def results(self, terms: Rows) -> dict[str, Any]:
        losses = self.history.losses
        return {
            "first_loss": losses[0],
            "final_loss": losses[-1],
            "optimiser_steps": len(losses),
            "features": self.networks.features,
            "measured_by": self.networks.measured_by,
            "sets": {comparison.title: comparison.figures() for comparison in self.comparisons},
            "work": {name: int(sum(row[name] for row in terms)) for name in ("forwards", "vjps")},
            "optimisation_seconds": round(sum(self.history.seconds), 1),
            "weights": WEIGHTS,
        }

    def report(self, run: RunFolder, terms: Rows) -> str:
        """The report as HTML."""
        c = self.config
        sections = [
            Section("The reference", [Pictures(["style"], [to_pil(self.style)], caption=str(c.style.name), size=192)]),
            *(self._pictures(comparison) for comparison in reversed(self.comparisons)),
            Section("Figures", [self._table(), Text(self._explained())]),
            Section("While it ran", self._progress(terms)),
            Section("Settings", [Facts(self._facts()), Code(self.again, "The same again:")]),
            Section("Use it", [Code(self._usage(run))]),
        ]
        versions = run.record["environment"]["versions"]
        footer = (
            f"adjointdpm {versions['adjointdpm']}, torch {versions['torch']}, diffusers {versions['diffusers']}; "
            f"{run.record['environment']['threads']} threads on {run.record['environment']['device']}; "
            f"started {run.record['started']}."
        )
        return render_report(f"The style of {c.style.name}", self._lead(), [s for s in sections if s.blocks], footer)

    def _lead(self) -> str:
        c = self.config
        lead = (
            f"Learnt on {len(c.pairs)} pairs of prompt and noise by exact gradients through all {c.steps} sampling "
            "steps and the decoder."
        )
        last = self.comparisons[-1]
        name = self.networks.measured_by or self.networks.features
        return f"{lead} {_sentence(last, name)}"

    def _pictures(self, comparison: Comparison) -> Section:
        heads, rows, names = comparison.grid(self.config.show)
        title = comparison.title.capitalize()
        size = 112 if len(heads) > 5 else 144
        name = self.networks.measured_by or self.networks.features
        return Section(title, [Pictures(heads, rows, names, _sentence(comparison, name), size=size)])

    def _table(self) -> Table:
        networks = list(self.comparisons[0].gram)
        judged = self.comparisons[0].recognised is not None
        header = ["images of", "images", *(f"Gram distance in {name}" for name in networks)]
        header += ["object recognised"] if judged else []
        rows = []
        for comparison in self.comparisons:
            cells = [f"{g.means[0]:.3g} → {g.means[1]:.3g} ({percent(-g.drop)})" for g in comparison.gram.values()]
            if comparison.recognised is not None:
                count = len(comparison.recognised.before)
                share = " → ".join(percent(share) for share in comparison.recognised.means) if count else "–"
                cells.append(share if count == len(comparison.pairs) else f"{share} (of {count})")
            rows.append([comparison.title, str(len(comparison.pairs)), *cells])
        return Table(header, rows, "Means over the images, before → after.")

    def _explained(self) -> str:
        measured = (
            f" {self.networks.measured_by} was never optimised against."
            if self.networks.measured_by
            else " No independent network measured it."
        )
        return (
            f"Gram distance: ‖G − G*‖² / ‖G*‖², G the Gram matrix of the image's features and G* that of the "
            f"reference, mean over layers; 0 is the reference's own style. {self.networks.features} was optimised "
            f"against.{measured}"
        )

    def _progress(self, terms: Rows) -> list[Block]:
        blocks: list[Block] = []
        if self.config.validate_every:
            heads, rows, names = self.validation.strip()
            blocks.append(Pictures(heads, rows, names, "The same prompts and noises throughout, none learnt on.", 112))
        panels: dict[str, Mapping[str, Sequence[float]]] = {
            "loss": {"": self.history.losses},
            "distance": {name: [float(row[name]) for row in terms] for name in ("style", "content")},
            "norm of the gradient": {"": self.history.grad_norms},
        }
        losses = self.history.losses
        alt = f"loss over steps, from {losses[0]:.3g} to {losses[-1]:.3g}, style and content distance, gradient norm"
        blocks.append(Chart(curves(panels, "step"), alt, width=960))
        return blocks

    def _facts(self) -> list[tuple[str, str]]:
        c, loop = self.config, self.config.loop_settings()
        content = c.content_features or self.networks.features
        tuned = f"LoRA of rank {c.rank}" if c.weights == "lora" else c.weights.replace("all", "all of the denoiser")
        return [
            ("weights", tuned),
            (
                "loss",
                f"{c.style_weight:g} × style in {self.networks.features} + {c.content_weight:g} × content in {content}",
            ),
            ("pairs", f"{len(c.prompts)} prompts × {len(c.seeds)} noises, {c.together} in a step"),
            ("prompts", ", ".join(c.prompts)),
            ("seeds", ", ".join(map(str, c.seeds))),
            (
                "optimiser",
                f"AdamW, {len(self.history.losses)} of {loop.epochs} steps, learning rate {loop.lr:g} "
                f"({loop.schedule}), weight decay {loop.weight_decay:g}",
            ),
            ("sampler", f"{c.steps} steps, guidance {c.guidance_scale:g}, mixed precision: {c.mixed_precision}"),
            ("time", f"{sum(self.history.seconds):.0f} s of optimisation"),
        ]

    def _usage(self, run: RunFolder) -> str:
        generator = self.validation.painter.generator
        pipe = generator.pipe
        component = "unet" if getattr(pipe, "unet", None) is not None else "transformer"
        lines = usage(self.config, generator, run.path / WEIGHTS, component, self.config.prompts[0])
        return f"# pipe: a {type(pipe).__name__} of this model\n{lines}"


def _sentence(comparison: Comparison, network: str) -> str:
    """The change of one set in words."""
    change = comparison.gram[network]
    text = (
        f"On {comparison.title} the Gram distance in {network} falls by {percent(change.drop)}"
        if change.drop >= 0
        else f"On {comparison.title} the Gram distance in {network} rises by {percent(-change.drop)}"
    )
    if comparison.recognised is None:
        return text + "."
    count = len(comparison.recognised.before)
    if count == 0:
        return text + "; no prompt names an object that the judge knows."
    before, after = comparison.recognised.means
    which = "images" if count == len(comparison.pairs) else f"{count} images whose prompt names one"
    return text + f"; the object is recognised in {percent(after)} of the {which}, {percent(before)} before."
