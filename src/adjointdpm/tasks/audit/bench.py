"""A batch of samples through every method: searched, judged, shown to other classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.judge import Judge
from adjointdpm.tasks.audit.network import ClassifierUnderAudit
from adjointdpm.tasks.audit.samples import Sample
from adjointdpm.tasks.audit.search import Budget, Found, climb, draw
from adjointdpm.tasks.audit.sources import Exact, Scene, Source
from adjointdpm.tasks.audit.subject import Subject, as_saved
from adjointdpm.tasks.images import parts
from adjointdpm.tasks.painter import Painter

__all__ = ["Bench", "CleanSample"]


@dataclass(frozen=True)
class CleanSample:
    """A sample with what its clean image showed: `counts` if verdict and judge are right on it."""

    sample: Sample
    right: bool
    judged: bool
    dropped: bool
    group: str

    @property
    def counts(self) -> bool:
        return self.right and self.judged and not self.dropped


class Bench:
    """Everything that batches share.

    Args:
        config: the settings.
        painter: draws images.
        subject: the network under audit with its loss.
        judge: says whether an image still shows its class.
        transfer: further classifiers by name.
        sources: gradient sources by method, "exact" among them.
    """

    def __init__(
        self,
        config: AuditConfig,
        painter: Painter,
        subject: Subject,
        judge: Judge,
        transfer: dict[str, ClassifierUnderAudit],
        sources: dict[str, Source],
    ) -> None:
        self.config, self.painter, self.subject = config, painter, subject
        self.judge, self.transfer, self.sources = judge, transfer, sources
        self.exact = Exact(painter, subject)
        self.at_once = config.batch_size or 8

    @property
    def methods(self) -> tuple[str, ...]:
        """Every method that is run, "exact" first."""
        drawn = [name for name in self.config.baselines if name in ("random", "best_of_n")]
        return ("exact", *drawn, *(name for name in self.sources if name != "exact"))

    def scene(self, samples: Sequence[Sample]) -> Scene:
        """Conditioning and noises of samples; the noises in at least float32, which the painter casts for the pipeline:
        in half precision a small bound would be rounded away."""
        embeds, negative = self.painter.encode([s.prompt for s in samples])
        noise = self.painter.noise([s.seed for s in samples])
        return Scene(samples, embeds, negative, noise.to(embeds.device, torch.promote_types(embeds.dtype, noise.dtype)))

    def clean_images(self, samples: Sequence[Sample]) -> Tensor:
        """(B, 3, H, W) as saved, on the device of the pipeline."""
        images = []
        for part in parts(len(samples), self.config.batch_size):
            scene = self.scene([samples[i] for i in part])
            with torch.no_grad():
                out = self.painter.generate(scene.embeds, scene.negative, scene.noise)
            images.append(as_saved(out.image_unclamped.detach()))
        return torch.cat(images)

    def clean(self, samples: Sequence[Sample]) -> list[CleanSample]:
        """What network and judge say of the clean images of a batch."""
        images = self.clean_images(samples)
        found, judged = self.subject.clean(images, samples), self.judge(images.cpu(), samples)
        rows = zip(samples, found.right, judged, found.dropped, found.groups, strict=True)
        return [CleanSample(*row) for row in rows]

    def search(self, samples: Sequence[Sample], budget: Budget, method: str) -> list[Found]:
        """One method on a batch."""
        scene = self.scene(samples)
        if method in ("random", "best_of_n"):
            once = Budget(budget.forward, budget.forward, budget.step)
            return draw(self.config, self.exact, scene, once if method == "random" else budget, self.at_once)
        return climb(self.config, self.sources[method], scene, budget)

    def rows(
        self, batch: Sequence[CleanSample], budget: Budget, on_method: Callable[[str], None] | None = None
    ) -> tuple[list[dict[str, Any]], list[Found]]:
        """All methods on a batch: a row for each sample (see `Tally.add`), and what the exact gradients found."""
        samples = [c.sample for c in batch]
        if on_method is not None:
            on_method("exact")
        kept = self.search(samples, budget, "exact")
        rows = self.rows_of_exact(batch, kept)
        self._transfer(samples, kept, rows)
        for method in self.methods[1:]:
            if on_method is not None:
                on_method(method)
            self._add(rows, samples, self.search(samples, budget, method), method)
        return rows, kept

    def rows_of_exact(self, batch: Sequence[CleanSample], found: Sequence[Found]) -> list[dict[str, Any]]:
        """Rows with what the exact gradients found alone."""
        rows: list[dict[str, Any]] = [
            {"index": c.sample.index, "seed": c.sample.seed, "group": c.group, "dropped": False, "methods": {}}
            for c in batch
        ]
        self._add(rows, [c.sample for c in batch], found, "exact")
        return rows

    def _add(self, rows: list[dict[str, Any]], samples: Sequence[Sample], found: Sequence[Found], method: str) -> None:
        judged = self._judged(samples, found)
        for row, f, agrees in zip(rows, found, judged, strict=True):
            row["dropped"] = row["dropped"] or f.dropped
            changed = [f.tau is not None and f.tau <= k for k in range(len(self.config.taus))]
            counts = [c and agrees for c in changed]
            row["methods"][method] = {"taus": changed, "counts": counts, "calls": f.calls, "margins": f.margins}

    def _judged(self, samples: Sequence[Sample], found: Sequence[Found]) -> list[bool]:
        """The judge's opinion of found images; False where there is none."""
        rows = [i for i, f in enumerate(found) if f.tau is not None and f.image is not None]
        opinions = [False] * len(found)
        if rows:
            images = torch.cat([f.image for f in (found[i] for i in rows) if f.image is not None])
            for i, agrees in zip(rows, self.judge(images, [samples[i] for i in rows]), strict=True):
                opinions[i] = agrees
        return opinions

    def _transfer(self, samples: Sequence[Sample], found: Sequence[Found], rows: list[dict[str, Any]]) -> None:
        """Show counted images to the further classifiers: (right on the clean image, wrong on the found one)."""
        counted = [i for i, row in enumerate(rows) if row["methods"]["exact"]["counts"][-1]]
        if not counted or not self.transfer:
            return
        chosen = [samples[i] for i in counted]
        images = torch.cat([f.image for f in (found[i] for i in counted) if f.image is not None])
        clean = self.clean_images(chosen)
        for name, network in self.transfer.items():
            before, after = (network.verdict(x.to(network.device)).tolist() for x in (clean, images))
            for i, b, a, s in zip(counted, before, after, chosen, strict=True):
                rows[i]["methods"]["exact"].setdefault("transfer", {})[name] = [b == s.label, a != s.label]
