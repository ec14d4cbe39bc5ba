"""What a guidance run leaves behind: images, the noises that give them, a sheet, a report, and the results."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.formats import GenerationText, PromptEmbedding, fingerprint, save_png
from adjointdpm.report import (
    Block,
    Chart,
    Code,
    Facts,
    Pictures,
    Section,
    Table,
    curves,
    picture_sheet,
    render_report,
    to_pil,
)
from adjointdpm.runs import RunFolder, atomic_write, save_tensors
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.effort import Effort
from adjointdpm.tasks.guide.marks import marked
from adjointdpm.tasks.guide.objective import Objective, Values
from adjointdpm.tasks.guide.start import Start
from adjointdpm.tasks.guide.terms import Term
from adjointdpm.tasks.guide.typicality import typicality
from adjointdpm.tasks.loop import History
from adjointdpm.tasks.painter import Painted

__all__ = ["REPORT_FILE", "GuideResult", "Outcome"]

REPORT_FILE, SHEET_FILE = "report.html", "guided.png"
Readings = list[dict[str, tuple[float, float]]]


@dataclass(frozen=True)
class GuideResult:
    """Images (N, 3, H, W) of all (prompt, seed) cases in order, and the noises (N, C, h, w) that give them; the losses
    of each step, summed over the images; for each case and term the reading before and after, in the
    term's unit.
    """

    folder: Path
    images: Tensor
    noise: Tensor
    losses: list[float]
    grad_norms: list[float]
    readings: Readings
    units: dict[str, str]
    report_path: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Everything that is known at the end of a run; `write` puts it into the run's folder."""

    objective: Objective
    start: Start
    history: History
    noise: Tensor
    rows: Tensor
    guided: Painted
    masks: Tensor
    readings: Readings
    losses: tuple[list[float], list[float]]
    effort: dict[str, int]
    again: str

    @classmethod
    def of(
        cls, objective: Objective, start: Start, values: Values, history: History, effort: Effort, again: str
    ) -> Outcome:
        every = list(range(objective.count))
        with torch.no_grad():
            guided = objective.paint(values)
            before, after = (objective.seen(images.image, every) for images in (start.plain, guided))
            readings: Readings = [{} for _ in every]
            for term in objective.terms:
                read = term.reading or term.loss
                for case, old, new in zip(every, read(before).tolist(), read(after).tolist(), strict=True):
                    readings[case][term.name] = (round(old, 4), round(new, 4))
            losses = tuple(objective.of_images(seen.image, every).tolist() for seen in (before, after))
            noise, rows = objective.noise(values, every), objective.rows(values, every)
        both = (losses[0], losses[1])
        return cls(objective, start, history, noise, rows, guided, after.mask, readings, both, effort.total(), again)

    @property
    def config(self) -> GuideConfig:
        return self.objective.config

    def result(self, run: RunFolder) -> GuideResult:
        return GuideResult(
            run.path,
            self.guided.image,
            self.noise.cpu(),
            self.history.losses,
            self.history.grad_norms,
            self.readings,
            {term.name: term.unit for term in self.objective.terms},
            run.path / REPORT_FILE,
            run.record,
        )

    def results(self) -> dict[str, Any]:
        cases = []
        typical = typicality(self.noise.float().cpu())
        for i, (prompt, seed) in enumerate(self.config.cases):
            cases.append(
                {
                    "prompt": prompt,
                    "wording": self.objective.wordings[i],
                    "seed": seed,
                    "start_seed": self.start.seeds[i],
                    "moved": list(self.start.moves[i]),
                    "blended": self.start.blends[i],
                    "loss": [round(self.losses[0][i], 6), round(self.losses[1][i], 6)],
                    "readings": {name: list(pair) for name, pair in self.readings[i].items()},
                    "noise": typical[i],
                    "image": f"{self.stem(i)}.png",
                    "noise_file": f"{self.stem(i)}.noise.safetensors",
                }
            )
        return {
            "cases": cases,
            "updates": len(self.history.losses),
            "optimisation_seconds": round(sum(self.history.seconds), 1),
            **self.effort,
        }

    def stem(self, case: int) -> str:
        """The name of a case's files, such as 0003-red-apple-seed7."""
        prompt, seed = self.config.cases[case]
        words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
        return "-".join(part for part in (f"{case:04d}", words, f"seed{seed}") if part)

    def write(self, run: RunFolder) -> None:
        """Images and noises, sheet and report first, the record last."""
        pictures = to_pil(self.guided.shown)
        for i, (_, seed) in enumerate(self.config.cases):
            text = GenerationText(
                self.objective.wordings[i],
                self.config.negative_prompt,
                self.config.steps,
                guidance_scale=self.config.guidance_scale,
                seed=seed,
                extra={"Guided": "adjointdpm guide"},
            )
            save_png(pictures[i], run.path / f"{self.stem(i)}.png", text)
            save_tensors(
                run.path / f"{self.stem(i)}.noise.safetensors", {"latents": self.noise[i : i + 1]}, self._sampler()
            )
            if self.config.optimise != "noise":
                self._embedding(i).save(run.path / f"{self.stem(i)}.embedding.safetensors")
        columns, rows, names = self._grid()
        save_png(picture_sheet(rows, columns, names), run.path / SHEET_FILE)
        atomic_write(run.path / REPORT_FILE, self.report(run))
        run.finish("finished", self.results())

    def _sampler(self) -> dict[str, str]:
        """What the noise belongs to, as `adjointdpm generate --noise` reads it."""
        settings = self.objective.painter.generator.settings
        found = {"steps": str(self.config.steps), "guidance": f"{self.config.guidance_scale:g}"}
        for name in ("solver", "spacing", "form"):
            value = getattr(settings, name)
            if isinstance(value, str):
                found[name] = value
        return found

    def _embedding(self, case: int) -> PromptEmbedding:
        rows = self.rows[case]
        provenance = {
            "base_model": fingerprint(self.objective.painter.generator.pipe),
            "settings": self.config.identity(),
            "prompt": self.objective.wordings[case],
        }
        own = self.objective.own[case]
        return PromptEmbedding(rows[own:].detach().float().cpu(), "fill", int(rows.shape[0]), provenance)

    def _grid(self) -> tuple[list[str], list[list[Any]], list[str]]:
        """Column heads, rows of pictures and row names."""
        mask = self.masks.clamp(0, 1)[:, None].expand(-1, 3, -1, -1)
        columns = ["unguided", "guided", "its object's mask"]
        shown = [to_pil(self.start.plain.shown), to_pil(self.guided.shown), to_pil(mask)]
        if not torch.equal(self.start.images.shown, self.start.plain.shown):
            columns.insert(1, "where it starts")
            shown.insert(1, to_pil(self.start.images.shown))
        shown = [[marked(picture, self.config) for picture in column] for column in shown]
        names = [f"{prompt}, seed {seed}" for prompt, seed in self.config.cases]
        return columns, [list(row) for row in zip(*shown, strict=True)], names

    def report(self, run: RunFolder) -> str:
        """The report as HTML."""
        columns, rows, names = self._grid()
        caption = (
            "Each row starts from the noise of its seed."
            + (" The dashed line is the box." if self.config.box else "")
            + (" The line is the outline of the mask." if self.config.mask else "")
        )
        sections = [
            Section("Images", [Pictures(columns, rows, names, caption, size=160)]),
            Section("What was asked", [self._table(term) for term in self.objective.terms if term.reading is not None]),
            Section("Optimisation", [self._curves(), Facts(self._facts())]),
            Section("Again", [Code(self.again, "The whole run."), Code(self._generate(run), "One image.")]),
        ]
        steps, count = self.config.steps, self.objective.count
        lead = (
            f"{count} image{'s' if count > 1 else ''} guided by the exact gradient through all {steps} sampling steps: "
            f"{self.config.title}."
        )
        environment = run.record["environment"]
        versions = environment["versions"]
        footer = (
            f"adjointdpm {versions['adjointdpm']}, torch {versions['torch']}, diffusers {versions['diffusers']}; "
            f"{environment['threads']} threads on {environment['device']}; started {run.record['started']}."
        )
        return render_report("Guided images", lead, [s for s in sections if s.blocks], footer)

    def _table(self, term: Term) -> Block:
        rows = [
            [f"{prompt}, seed {seed}", *(f"{value:.3g}" for value in self.readings[i][term.name])]
            for i, (prompt, seed) in enumerate(self.config.cases)
        ]
        middle = [sorted(pair[term.name][k] for pair in self.readings) for k in (0, 1)]
        if len(rows) > 1:
            rows.append(["median", *(f"{values[(len(values) - 1) // 2]:.3g}" for values in middle)])
        direction = "more is better" if term.higher else "" if "wanted" in term.label else "less is better"
        caption = f"{term.label[:1].upper()}{term.label[1:]}, in {term.unit}{'; ' if direction else ''}{direction}."
        return Table(["image", "before", "after"], rows, caption)

    def _curves(self) -> Block:
        count = self.objective.count * self.config.starts
        losses = [loss / count for loss in self.history.losses]
        panels = {"loss, mean over the images": {"": losses}, "norm of the gradient": {"": self.history.grad_norms}}
        alt = f"loss over steps, from {losses[0]:.3g} to {losses[-1]:.3g}, and the norm of the gradient"
        return Chart(curves(panels, "step"), alt, width=720)

    def _facts(self) -> list[tuple[str, str]]:
        c, results = self.config, self.results()
        lengths = [case["noise"]["length"] for case in results["cases"]]
        deviances = [case["noise"]["deviance"] for case in results["cases"]]
        weights = ", ".join(f"{term.name} {term.weight:g}" for term in self.objective.terms)
        return [
            ("optimised", {"noise": "x_T", "embedding": "the embedding", "both": "x_T and the embedding"}[c.optimise]),
            ("starts", self._starts()),
            ("weights", weights + (f", typicality {c.typicality:g}" if c.optimise != "embedding" else "")),
            ("optimiser", f"AdamW, {results['updates']} steps, learning rate {c.lr:g} ({c.lr_schedule})"),
            ("sampler", f"{c.steps} steps, guidance {c.guidance_scale:g}"),
            ("noise", f"length {min(lengths):.3f} to {max(lengths):.3f} of the typical one; deviance of its spectrum "
                      f"{min(deviances):.2f} to {max(deviances):.2f} (typical: about 0.5)"),
            ("network", f"{results['network_calls']} calls, {results['recomputations']} recomputed, "
                        f"{results['vjps']} vector-Jacobian products"),
            ("time", f"{results['optimisation_seconds']:.0f} s"),
        ]  # fmt: skip

    def _starts(self) -> str:
        count, rolled = self.config.candidates, sum(move != (0, 0) for move in self.start.moves)
        drawn = "its own noise" if count == 1 else f"the best of {count} noises"
        if self.config.starts > 1:
            drawn = f"the best {self.config.starts} of {count} noises, side by side,"
        worded = sum(
            ours != theirs for ours, theirs in zip(self.objective.wordings, self.objective.prompts, strict=True)
        )
        mixed = sum(amount > 0 for amount in self.start.blends)
        changed = {"moved": rolled, "blended with a guess": mixed, "by another wording": worded}
        parts = [f"{drawn} for each seed", *(f"{n} of {self.objective.count} {how}" for how, n in changed.items() if n)]
        return "; ".join(parts)

    def _generate(self, run: RunFolder) -> str:
        words = [
            "adjointdpm",
            "generate",
            self.objective.wordings[0],
            "--noise",
            str(run.path / f"{self.stem(0)}.noise.safetensors"),
        ]
        if self.config.optimise != "noise":
            words += ["--embedding", str(run.path / f"{self.stem(0)}.embedding.safetensors")]
        words += ["--steps", str(self.config.steps), "--guidance", f"{self.config.guidance_scale:g}"]
        if self.config.negative_prompt:
            words += ["--negative", self.config.negative_prompt]
        sampler = self._sampler()
        for name in ("solver", "spacing", "form"):
            if name in sampler:
                words += [f"--{name}", sampler[name]]
        return shlex.join(words)
