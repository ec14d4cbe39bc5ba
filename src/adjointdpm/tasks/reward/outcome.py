"""What a reward run leaves behind: what was learnt, a picture sheet, a report, and the results in the record."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adjointdpm.formats import save_png
from adjointdpm.report import (
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
from adjointdpm.runs import RunFolder, atomic_write, read_jsonl
from adjointdpm.tasks.loop import History
from adjointdpm.tasks.painter import Painted
from adjointdpm.tasks.reward.config import Item, RewardConfig
from adjointdpm.tasks.reward.scores import Change, Rewards, verdict
from adjointdpm.tasks.usage import drawing

__all__ = ["REPORT_FILE", "Compared", "Outcome"]

REPORT_FILE, SHEET_FILE = "report.html", "before_after.png"
SHOWN = 24  # rows of pictures in a report; scores are over all
VERDICTS = {
    "no held-out reward": "No held-out reward watched this run, so a reward that was only tricked would look the same.",
    "hacked": "Reward hacking: the optimised reward rose while the held-out one fell. Do not trust the rise; {remedy} "
    "fewer steps, a smaller learning rate or a second reward hold it back.",
    "confirmed": "The held-out reward, which was never optimised, rose as well.",
    "undecided": "The change of the held-out reward, which was never optimised, cannot be told from chance.",
}
GRADIENTS = {
    "exact": "exact gradients through all {steps} sampling steps",
    "full": "plain backpropagation through all {steps} sampling steps",
    "truncated": "gradients through the last {last} of {steps} sampling steps (biased)",
    "random_truncation": "gradients through a random number of the last {steps} sampling steps (biased)",
    "one_step": "the gradient of the first prediction in place of {steps} sampling steps (biased)",
}


@dataclass(frozen=True)
class Compared:
    """The same images before and after, with every score of each."""

    items: Sequence[Item]
    before: Painted
    after: Painted
    scores_before: Mapping[str, Sequence[float]]
    scores_after: Mapping[str, Sequence[float]]

    def changes(self) -> dict[str, Change]:
        return {name: Change(name, old, self.scores_after[name]) for name, old in self.scores_before.items()}

    def grid(self, limit: int | None = None) -> tuple[list[str], list[list[Any]], list[str]]:
        """Column heads, rows of pictures and row names, for reports and sheets."""
        count = len(self.items) if limit is None else min(limit, len(self.items))
        pictures = (to_pil(painted.shown[:count]) for painted in (self.before, self.after))
        rows = [list(pair) for pair in zip(*pictures, strict=True)]
        names = [f"{item.prompt}, seed {item.seed}" for item in self.items[:count]]
        return ["before", "after"], rows, names


@dataclass(frozen=True)
class Outcome:
    """Everything that is known at the end of a run; `write` puts it into the run's folder."""

    config: RewardConfig
    rewards: Rewards
    history: History
    seen: Compared
    unseen: Compared | None
    files: Sequence[Path]
    again: str
    generator: Any

    @property
    def gradient(self) -> str:
        """Whose the run's was: the setting's, else the generator's own."""
        own = self.generator.settings.gradient
        return self.config.gradient or str(getattr(own, "name", own))

    def write(self, run: RunFolder) -> None:
        """Sheet and report first, the record last."""
        judged = self.unseen or self.seen
        columns, rows, names = judged.grid(SHOWN)
        save_png(picture_sheet(rows, columns, names), run.path / SHEET_FILE)
        atomic_write(run.path / REPORT_FILE, self.report(run))
        run.finish("finished", self.results())

    def verdict(self) -> str:
        """See `scores.verdict`; on unseen images where there are some."""
        changes = (self.unseen or self.seen).changes()
        return verdict(changes[self.rewards.total_name], changes.get(self.rewards.watched_name))

    def results(self) -> dict[str, Any]:
        def plain(compared: Compared | None) -> dict[str, Any] | None:
            return None if compared is None else {n: c.as_dict() for n, c in compared.changes().items()}

        return {
            "verdict": self.verdict(),
            "seen": plain(self.seen),
            "unseen": plain(self.unseen),
            "steps": len(self.history.losses),
            "optimisation_seconds": round(math.fsum(self.history.seconds), 1),
            "files": [path.name for path in self.files],
        }

    def report(self, run: RunFolder) -> str:
        """The report as HTML."""
        sections = [
            self._compared("Prompts and noises that it never saw", self.unseen),
            self._compared("What it was learnt on" if self.unseen else "Images", self.seen),
            Section("Optimisation", [*self._curves(run), Facts(self._facts(run))]),
            Section("Use it", [Code(self._usage(run))]),
            Section("Again", [Code(self.again), Code(self._settings(), "All settings, as --config takes them.")]),
        ]
        what = {"noise": "the noise of each image", "embedding": "a text embedding", "weights": "the weights"}
        how = GRADIENTS.get(self.gradient, f"{self.gradient} gradients").format(
            steps=self.config.steps, last=self.config.last_k
        )
        remedy = "a larger weight of the typicality penalty," if self.config.optimise == "noise" else ""
        found = VERDICTS[self.verdict()].format(remedy=remedy).replace("  ", " ")
        lead = f"Changed {what[self.config.optimise]} by {how}. {found}"
        known = run.record["environment"]
        versions = known["versions"]
        footer = (
            f"adjointdpm {versions['adjointdpm']}, torch {versions['torch']}, diffusers {versions['diffusers']}; "
            f"{known['threads']} threads on {known['device']}; started {run.record['started']}."
        )
        title = "Optimised for " + " + ".join(term.text for term in self.rewards.terms)
        return render_report(title, lead, [s for s in sections if s.blocks], footer)

    def _compared(self, title: str, compared: Compared | None) -> Section:
        if compared is None:
            return Section(title, [])
        columns, rows, names = compared.grid(SHOWN)
        count = len(compared.items)
        left_out = f" The first {len(rows)} of {count}." if len(rows) < count else ""
        caption = f"Same prompts and seeds in both columns.{left_out}"
        return Section(title, [self._table(compared), Pictures(columns, rows, names, caption, size=144)])

    def _table(self, compared: Compared) -> Table:
        rows = []
        for name, change in compared.changes().items():
            if name == self.rewards.total_name and len(self.rewards.terms) == 1 and self.rewards.terms[0].weight == 1:
                continue  # the one reward says the same
            c = change.as_dict()
            interval = "–" if c["interval"] is None else f"{c['interval'][0]:+.3g} … {c['interval'][1]:+.3g}"
            shown = "weighted sum" if name == self.rewards.total_name else name
            rows.append([shown, f"{c['before']:.4g}", f"{c['after']:.4g}", f"{c['difference']:+.3g}", interval])
        caption = f"Means over {len(compared.items)} images; the interval is that of the mean change, 95 %, paired."
        return Table(["reward", "before", "after", "change", "interval"], rows, caption)

    def _curves(self, run: RunFolder) -> list[Chart | Text]:
        rows = {row["step"]: row["rewards"] for row in read_jsonl(run.path / "log.jsonl") if "rewards" in row}
        panels: dict[str, dict[str, list[float]]] = {}
        if rows:
            steps = sorted(rows)
            panels["reward (weighted sum)"] = {"": [rows[s][self.rewards.total_name] for s in steps]}
            if self.rewards.watched is not None:
                panels[self.rewards.watched_name] = {"": [rows[s][self.rewards.watched_name] for s in steps]}
            if self.config.penalty:
                panels["penalty on the noise"] = {"": [rows[s]["penalty"] for s in steps]}
        panels["norm of the gradient"] = {"": self.history.grad_norms}
        alt = "; ".join(f"{title} from {line[''][0]:.3g} to {line[''][-1]:.3g}" for title, line in panels.items())
        return [Chart(curves(panels, "step", log=False), f"over the steps: {alt}", width=240 * len(panels))]

    def _settings(self) -> str:
        return json.dumps(self.config.model_dump(mode="json", exclude={"out"}), indent=1, ensure_ascii=False)

    def _facts(self, run: RunFolder) -> list[tuple[str, str]]:
        c, loop = self.config, self.config.loop_settings()
        facts = [
            ("rewards", ", ".join(term.text for term in self.rewards.terms)),
            ("held out", "none" if self.rewards.watched is None else self.rewards.watched.text),
            ("images", f"{len(c.prompts)} prompts × {len(c.seeds)} seeds" + (", fresh noises" if c.fresh else "")),
            ("seeds", ", ".join(map(str, c.seeds[:20])) + (" …" if len(c.seeds) > 20 else "")),
            ("optimiser", f"AdamW, {len(self.history.losses)} steps, learning rate {loop.lr:g} ({loop.schedule})"),
            ("sampler", f"{c.steps} steps, guidance {c.guidance_scale:g}, gradient {self.gradient}"),
        ]
        if c.optimise == "noise":
            facts.append(("typicality", f"{c.typicality}, weight {c.penalty:g}"))
        if c.optimise == "weights":
            facts.append(("weights", f"LoRA of rank {c.rank}" if c.train == "lora" else c.train))
        facts.append(("model", ", ".join(f"{name} {value}" for name, value in run.record["identity"].items())))
        return [*facts, ("time", f"{math.fsum(self.history.seconds):.0f} s")]

    def _usage(self, run: RunFolder) -> str:
        c = self.config
        pipe, draw = "# pipe: a diffusers pipeline of this model", partial(drawing, self.generator, c)
        if c.optimise == "noise":
            prompt = c.pairs[0][0]
            lines = [
                "from safetensors.torch import load_file",
                f'noise = load_file("{self.files[0]}")["latents"]',
                draw(f"{prompt!r}, latents=noise"),
            ]
        elif c.optimise == "embedding":
            from adjointdpm.formats import PromptEmbedding, TextualInversion
            from adjointdpm.tasks.inversion.outcome import usage

            kind: Any = PromptEmbedding if c.space == "prompt" else TextualInversion
            return f"{pipe}\n{usage(kind.load(self.files[0]), self.files[0], draw, c.prompts[0])}"
        elif c.train == "lora":
            lines = [f'pipe.load_lora_weights("{run.path}")', draw(repr(c.prompts[0]))]
        else:
            name = self.files[-1].name
            lines = [
                f'pipe.{name} = type(pipe.{name}).from_pretrained("{self.files[-1]}")',
                draw(repr(c.prompts[0])),
            ]
        return "\n".join([pipe, *lines])
