"""What an inversion leaves behind: the embedding, two picture sheets, a report, and the results in the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adjointdpm.formats import PromptEmbedding, TextualInversion, save_png
from adjointdpm.report import Chart, Code, Facts, Pictures, Section, Text, curves, picture_sheet, render_report
from adjointdpm.runs import RunFolder, atomic_write
from adjointdpm.tasks.inversion.compare import Comparison
from adjointdpm.tasks.inversion.config import InvertConfig
from adjointdpm.tasks.loop import History
from adjointdpm.tasks.usage import drawing

__all__ = ["EMBEDDING_FILE", "REPORT_FILE", "Outcome", "usage"]

EMBEDDING_FILE, REPORT_FILE = "embedding.safetensors", "report.html"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def usage(
    embedding: PromptEmbedding | TextualInversion,
    path: Path,
    draw: Callable[[str], str],
    prompt: str = "rocket",
    model: Path | None = None,
) -> str:
    """Lines of Python that use the embedding in diffusers, with the pipeline in the folder `model`, or in `pipe`.

    `draw` gives the lines that draw an image of a call's first arguments, as `tasks.usage.drawing` does.
    """
    imports = ["from diffusers import StableDiffusionPipeline"] if model is not None else []
    lines = [f'pipe = StableDiffusionPipeline.from_pretrained("{model}")'] if model is not None else []
    if isinstance(embedding, TextualInversion):
        lines += [
            f'pipe.load_textual_inversion("{path}")',
            draw(f'"{prompt} {embedding.token}"'),
        ]
    elif embedding.position == "fill":
        imports.append("from adjointdpm.formats import PromptEmbedding")
        lines.append(f'text = PromptEmbedding.load("{path}").apply(pipe, "{prompt}")')
        lines.append(draw("prompt_embeds=text"))
    else:
        imports.append("from safetensors.torch import load_file")
        lines.append(f'rows = load_file("{path}")["rows"]')
        lines.append(f'text, _ = pipe.encode_prompt("{prompt}", pipe.device, 1, False)')
        lines.append("text[:, -len(rows):] = rows")
        lines.append(draw("prompt_embeds=text"))
    return "\n".join([*imports, "", *lines] if imports else lines)


@dataclass(frozen=True)
class Outcome:
    """Everything that is known at the end of a run; `write` puts it into the run's folder."""

    config: InvertConfig
    embedding: PromptEmbedding | TextualInversion
    history: History
    final_loss: float
    seen: Comparison
    unseen: Comparison | None
    generator: Any

    def write(self, run: RunFolder) -> None:
        """Sheets, embedding and report first, the record last."""
        if run.main:
            self._write_files(run)
        run.finish("finished", self.results())

    def _write_files(self, run: RunFolder) -> None:
        self.embedding.save(run.path / EMBEDDING_FILE)
        for name, comparison in (("seen", self.seen), ("unseen", self.unseen)):
            if comparison is not None:
                columns, rows, names = comparison.grid()
                save_png(picture_sheet(rows, columns, names), run.path / f"{name}.png")
        atomic_write(run.path / REPORT_FILE, self.report(run))

    def results(self) -> dict[str, Any]:
        return {
            "final_loss": self.final_loss,
            "first_loss": self.history.losses[0],
            "gap_closed_seen": self.seen.gap(),
            "gap_closed_unseen": None if self.unseen is None else self.unseen.gap(),
            "optimisation_seconds": round(sum(self.history.seconds), 1),
            "embedding": EMBEDDING_FILE,
        }

    def report(self, run: RunFolder) -> str:
        """The report as HTML."""
        results, name = self.results(), self.config.target_name
        sections = [
            self._pictures(
                "Prompts and noises that it never saw", self.unseen, "The embedding was learnt on none of these."
            ),
            self._pictures("The training pairs", self.seen, "Each target came from the noise of its row."),
            Section("Optimisation", [self._curves(), Facts(self._facts(results))]),
            Section("Use it", [Code(self._usage(run))]),
        ]
        share = results["gap_closed_unseen"]
        count, steps = len(self.config.pairs), self.config.steps
        lead = f"Learnt from {count} images by exact gradients through all {steps} sampling steps."
        if share is not None:
            lead += (
                f" On prompts and noises never optimised on it closes {percent(share)} of the gap to the true effect."
            )
        versions = run.record["environment"]["versions"]
        footer = (
            f"adjointdpm {versions['adjointdpm']}, torch {versions['torch']}, diffusers {versions['diffusers']}; "
            f"{run.record['environment']['threads']} threads on {run.record['environment']['device']}; "
            f"started {run.record['started']}."
        )
        return render_report(f"“{name}” as a text embedding", lead, [s for s in sections if s.blocks], footer)

    def _usage(self, run: RunFolder) -> str:
        lines = usage(self.embedding, run.path / EMBEDDING_FILE, partial(drawing, self.generator, self.config))
        return f"# pipe: a StableDiffusionPipeline of this model\n{lines}"

    def _pictures(self, title: str, comparison: Comparison | None, caption: str) -> Section:
        if comparison is None:
            return Section(title, [])
        columns, rows, names = comparison.grid()
        gap = comparison.gap()
        if gap is not None:
            caption += f" Share of the gap closed (mean squared error, median): {percent(gap)}."
        return Section(title, [Pictures(columns, rows, names, caption, size=144)])

    def _curves(self) -> Chart | Text:
        panels = {"loss": {"": self.history.losses}, "norm of the gradient": {"": self.history.grad_norms}}
        losses = self.history.losses
        alt = f"loss over steps, from {losses[0]:.3g} to {losses[-1]:.3g}, and the norm of the gradient"
        return Chart(curves(panels, "step"), alt, width=720)

    def _facts(self, results: dict[str, Any]) -> list[tuple[str, str]]:
        c, loop = self.config, self.config.loop_settings()
        if isinstance(self.embedding, PromptEmbedding):
            m, width = self.embedding.rows.shape
            length, position = self.embedding.encoder_length, self.embedding.position
            where = f"{m} rows of width {width} ({position}) of the {length} text rows"
        else:
            n, width = self.embedding.vectors.shape
            where = f"{n} input vectors of width {width} for the token {self.embedding.token}"
        return [
            ("embedding", where),
            ("loss", f"{c.loss}, {results['first_loss']:.4g} → {results['final_loss']:.4g}"),
            ("optimiser", f"AdamW, {loop.epochs} steps, learning rate {loop.lr:g} ({loop.schedule})"),
            ("sampler", f"{c.steps} steps, guidance {c.guidance_scale:g}"),
            ("time", f"{results['optimisation_seconds']:.0f} s"),
        ]
