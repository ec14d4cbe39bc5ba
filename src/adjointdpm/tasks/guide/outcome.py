"""What a guidance run leaves behind: images, the noises that give them, a sheet, a report, and the results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adjointdpm.formats import GenerationText, PromptEmbedding, fingerprint, save_png
from adjointdpm.report import (
    picture_sheet,
    to_pil,
)
from adjointdpm.runs import RunFolder, atomic_write, save_tensors
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.effort import Effort
from adjointdpm.tasks.guide.marks import marked
from adjointdpm.tasks.guide.objective import Objective, Values
from adjointdpm.tasks.guide.page import report_of
from adjointdpm.tasks.guide.start import Start
from adjointdpm.tasks.guide.typicality import typicality
from adjointdpm.tasks.loop import History
from adjointdpm.tasks.networks import object_judge
from adjointdpm.tasks.painter import Painted

if TYPE_CHECKING:
    from PIL.Image import Image

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
    given: Mapping[str, Image]
    recognised: Mapping[int, tuple[bool, bool]]  # by the judge, before and after, of the cases where it can tell

    @classmethod
    def of(
        cls, objective: Objective, start: Start, values: Values, history: History, effort: Effort, again: str,
        given: Mapping[str, Image],
    ) -> Outcome:  # fmt: skip
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
            judged = _judged(objective, start.plain.image, guided.image)
        both = (losses[0], losses[1])
        work = effort.total()
        return cls(
            objective, start, history, noise, rows, guided, after.mask, readings, both, work, again, given, judged
        )

    @property
    def config(self) -> GuideConfig:
        return self.objective.config

    @property
    def sampler(self) -> str:
        """The name of the pipeline's scheduler, or of the solver of the ODE."""
        return str(self.objective.painter.generator.identity()["sampler"])

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
                    **({"recognised": list(self.recognised[i])} if i in self.recognised else {}),
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
            made = {"Guided": "adjointdpm guide", "Noise": f"{self.stem(i)}.noise.safetensors"}
            if self.config.optimise != "noise":
                made["Embedding"] = f"{self.stem(i)}.embedding.safetensors"
            text = GenerationText(
                self.objective.wordings[i],
                self.config.negative_prompt,
                self.config.steps,
                guidance_scale=self.config.guidance_scale,
                seed=seed,
                sampler=self.sampler,
                extra={**made, **{name.capitalize(): value for name, value in self.road()}},
            )
            save_png(pictures[i], run.path / f"{self.stem(i)}.png", text)
            save_tensors(
                run.path / f"{self.stem(i)}.noise.safetensors", {"latents": self.noise[i : i + 1]}, self._sampler()
            )
            if self.config.optimise != "noise":
                self._embedding(i).save(run.path / f"{self.stem(i)}.embedding.safetensors")
        columns, rows, names = self.grid()
        save_png(picture_sheet(rows, columns, names), run.path / SHEET_FILE)
        atomic_write(run.path / REPORT_FILE, report_of(self, run))
        run.finish("finished", self.results())

    def _sampler(self) -> dict[str, str]:
        """What the noise belongs to, as `adjointdpm generate --noise` reads it."""
        return {"steps": str(self.config.steps), "guidance": f"{self.config.guidance_scale:g}", **dict(self.road())}

    def road(self) -> list[tuple[str, str]]:
        """What was said of the ODE, as options of `adjointdpm generate`."""
        settings = self.objective.painter.generator.settings
        said = [(name, getattr(settings, name)) for name in ("solver", "spacing", "form")]
        return [(name, value) for name, value in said if isinstance(value, str)]

    def _embedding(self, case: int) -> PromptEmbedding:
        rows = self.rows[case]
        provenance = {
            "base_model": fingerprint(self.objective.painter.generator.pipe),
            "settings": self.config.identity(),
            "prompt": self.objective.wordings[case],
        }
        own = self.objective.own[case]
        return PromptEmbedding(rows[own:].detach().float().cpu(), "fill", int(rows.shape[0]), provenance)

    def grid(self) -> tuple[list[str], list[list[Any]], list[str]]:
        """Column heads, rows of pictures and row names."""
        mask = self.masks.clamp(0, 1)[:, None].expand(-1, 3, -1, -1)
        columns = ["unguided", "guided", "its object's mask"]
        shown = [to_pil(self.start.plain.shown), to_pil(self.guided.shown), to_pil(mask)]
        if not torch.equal(self.start.images.shown, self.start.plain.shown):
            columns.insert(1, "where it starts")
            shown.insert(1, to_pil(self.start.images.shown))
        shown = [[marked(picture, self.config, self.given) for picture in column] for column in shown]
        names = [f"{prompt}, seed {seed}" for prompt, seed in self.config.cases]
        return columns, [list(row) for row in zip(*shown, strict=True)], names


def _judged(objective: Objective, before: Tensor, after: Tensor) -> dict[int, tuple[bool, bool]]:
    """Whether the embedded model's judge, which is never optimised against, sees each prompt's object."""
    judge = object_judge(objective.painter.generator.pipe)
    if judge is None:
        return {}
    seen = zip(*(judge(images.cpu().float(), objective.prompts) for images in (before, after)), strict=True)
    return {i: (old, new) for i, (old, new) in enumerate(seen) if old is not None and new is not None}
