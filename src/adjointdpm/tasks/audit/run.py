"""`run_audit(config, generator)`: paper 4.3, max L(y, f(Φ(x_T + δ))) over ‖δ‖ ≤ τ, counted over many samples.

Clean images first: a sample counts if the network's verdict on it is right and the judge sees the class.  Then batches
of samples through every method, a checkpoint after each round, and in the end rates, sanity checks, and hardening.

Filter mode gives out rates of all samples alone: not after each round, whose differences are verdicts, and without the
checkpoint once the run is finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.runs import GO_ON, Checkpoint, GracefulStop, RunFolder
from adjointdpm.tasks.again import in_python
from adjointdpm.tasks.audit.afterwards import RESULTS_FILE, finished
from adjointdpm.tasks.audit.bench import CleanSample
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.harden import Hardening
from adjointdpm.tasks.audit.outcome import FOUND_FILE, REPORT_FILE, Pair, headline, write_outcome
from adjointdpm.tasks.audit.parties import Given, find_parties
from adjointdpm.tasks.audit.rounds import batches_of, clean_samples, in_rounds
from adjointdpm.tasks.audit.samples import Sample
from adjointdpm.tasks.audit.sanity import check_outcome
from adjointdpm.tasks.audit.search import Budget, Found
from adjointdpm.tasks.audit.stage import Stage, set_stage
from adjointdpm.tasks.audit.tally import LEAST_GROUP, Tally
from adjointdpm.tasks.networks import is_embedded
from adjointdpm.tasks.opening import check_generator, run_folder
from adjointdpm.tasks.team import Team
from adjointdpm.tasks.tracking import open_tracker

__all__ = ["AuditResult", "run_audit"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class AuditResult:
    """Rates, and where they are written.

    Attributes:
        results: what results.json holds.
        unreached: the verdict changed on no sample that counts, by no method, not even within the largest bound.
        found: file of noises found: for each sample and bound raw, clipped, success; classifier mode with `images`.
    """

    folder: Path
    results: dict[str, Any]
    results_path: Path
    report_path: Path
    unreached: bool
    found: Path | None


def run_audit(
    config: AuditConfig,
    generator: Any,
    *,
    network: Any = None,
    judge: Any = None,
    transfer: Sequence[Any] = (),
    on_progress: Progress | None = None,
    team: Team | None = None,
    again: Callable[[AuditConfig], str] | None = None,
) -> AuditResult:
    """Audit a classifier or a filter with images of `generator` (of `ad.differentiable`).

    Goes on with an interrupted run in `config.out`; a finished one is only reported anew, of a filter not even that.
    The generator and the network under audit are not changed.

    Args:
        config: the settings.
        generator: paints the images; its gradient must be "exact" or "full".
        network, judge, transfer: objects in place of the names in the settings.
        on_progress: called as on_progress(done, of, what).
        team: the processes that share the batches; `Team.join()` by default.
        again: the command that repeats a run of these settings, for the report; it gets `config.shown()`.

    Raises:
        InvalidInput: something does not fit, or no sample is right to start with; before anything is written.
        NotDifferentiable: the network has no gradient; names the step.
        NonFinite: the network, or an exact gradient, gives NaN; names the sample.
        RunInterrupted: on SIGINT or SIGTERM, after the round was saved.
    """
    check_generator(generator)
    if generator.settings.gradient not in ("exact", "full", "reversible"):
        raise InvalidInput(
            f"gradient={generator.settings.gradient!r}: an audit compares exact gradients with others, so the "
            "generator's own must be exact"
        )
    team = team or Team.join()
    given = Given(network, judge, tuple(transfer))
    parties = find_parties(config, generator.pipe, given, is_embedded(generator.pipe))
    repeat = again(config.shown()) if again else in_python("run_audit", config.shown(), vars(given))
    with (
        closing(open_tracker(config.tracker, config.out, config.identity(), team)) as tracker,
        run_folder("audit", config, generator, team, repeat, parties.identity()) as run,
        ExitStack() as borrowed,
    ):
        results = finished(run) if config.mode == "filter" else None
        if results is None:
            stage = set_stage(config, generator, parties, borrowed)
            task = _Audit(config, stage, run, team, tracker, on_progress)
            results = task.run_all(repr(generator), repeat)
    found = config.out / FOUND_FILE
    return AuditResult(
        config.out,
        results,
        config.out / RESULTS_FILE,
        config.out / REPORT_FILE,
        bool(results["unreached"]),
        found if config.images else None,
    )


class _Audit:
    """One run: clean images, rounds of batches, hardening, outcome."""

    def __init__(
        self,
        config: AuditConfig,
        stage: Stage,
        run: RunFolder,
        team: Team,
        tracker: Any,
        on_progress: Progress | None,
    ) -> None:
        self.config, self.stage, self.run, self.team = config, stage, run, team
        self.stop = GracefulStop("batch", speaks=team.main)
        self.tracker, self.on_progress = tracker, on_progress
        self.bench, self.began = stage.bench, time.perf_counter()
        self.state: dict[str, Any] = dict(run.resumed.state) if run.resumed is not None else {}
        self.done = run.resumed.step if run.resumed is not None else 0
        self.known: dict[int, Found] = {}  # in memory, for hardening
        self.units, self.unit = 1, 0

    def run_all(self, generator: str, again: str) -> dict[str, Any]:
        """Everything; the results as they are written."""
        self._say("clean images")
        clean = clean_samples(self.bench, self.stage.samples, self.team)
        chosen = [c for c in clean if c.counts]
        if not chosen:
            raise InvalidInput(_nothing_to_do(clean))
        budget = self._budget([c.sample for c in chosen[: self.config.batch_size]])
        sanity = self.stage.checks()
        self.run.begin()
        self.state.setdefault("budget", asdict(budget))
        hardening = None
        try:
            with self.stop:
                tally = self._rounds(chosen, budget)
                if self.config.harden:
                    task = Hardening(self.stage, budget, self.team, self.config.out, self._say, self._pause)
                    state = self.state.setdefault("hardening", {})
                    hardening = task.run(chosen, self.known, state, self._save)
        except Exception:  # what is done is kept, as on a signal
            self._save()
            self.run.finish("failed")
            raise
        results = {
            "mode": self.config.mode,
            "network": self.stage.network.name,
            "generator": generator,
            "judged": self.stage.judged,
            "clean": {
                "samples": len(clean),
                "wrong": sum(not c.right and not c.dropped for c in clean),
                "not_shown": sum(c.right and not c.judged and not c.dropped for c in clean),
                "dropped": sum(c.dropped for c in clean),
            },
            "calls": {"bound": budget.calls, "forward": budget.forward, "steps": dict(budget.step)},
            **tally.results(self.config.taus, LEAST_GROUP if self.config.mode == "filter" else 1),
            "sanity": [check.as_dict() for check in (*sanity, check_outcome(tally))],
            "left_out": self.stage.left_out,
            "hardening": hardening,
            "seconds": round(self.state.get("seconds", 0.0) + time.perf_counter() - self.began, 1),
            "unreached": tally.n > 0 and not any(changed[-1] for changed in tally.changed.values()),
            "config": self.config.identity(),
            "environment": self.run.record["environment"],
        }
        results["headline"] = headline(self.config, results)
        if self.team.main:
            write_outcome(self.run, self.config, results, again, self._pairs(chosen), self.state.get("found"))
        self.team.wait()
        return results

    def _budget(self, samples: Sequence[Sample]) -> Budget:
        """Of the run that is resumed, or measured."""
        known = self.state.get("budget")
        budget = self.stage.budget(samples) if known is None else Budget(**known)
        self.stage.leave_out(budget.left_out)
        return budget

    def _rounds(self, chosen: Sequence[CleanSample], budget: Budget) -> Tally:
        """Every batch through every method; counts so far come from the checkpoint."""
        methods, taus = self.bench.methods, len(self.config.taus)
        tally = Tally(**self.state["tally"]) if "tally" in self.state else Tally(taus, taus * budget.calls, methods)
        batches = batches_of(chosen, self.config.batch_size)
        self.units, self.unit = len(batches) * len(methods), self.done * len(methods)
        self.state["tally"] = tally.as_state()
        unsaved = 0

        def work(batch: list[CleanSample]) -> tuple[list[dict[str, Any]], list[Found]]:
            rows, found = self.bench.rows(batch, budget, self._method)
            return rows, found if self.config.harden or self.config.images else []  # all processes are given it

        for results in in_rounds(batches, work, self.team, self.done):
            for batch, (rows, found) in zip(batches[self.done :], results, strict=False):
                tally.add(rows)
                self._remember(batch, rows, found)
            self.done += len(results)
            self.unit = self.done * len(methods)
            self.state["tally"] = tally.as_state()
            unsaved += 1
            asked = self.team.agree(self.stop.requested)
            if unsaved >= self.config.checkpoint_every or asked or self.done == len(batches):
                self._save()
                unsaved = 0
            self._note(tally, len(batches))
            if asked:
                self._interrupt(f"after batch {self.done} of {len(batches)}")
        return tally

    def _pause(self) -> None:
        """End the run where a signal asked for it; what hardening has finished is saved."""
        if self.team.agree(self.stop.requested):
            self._save()
            self._interrupt("while hardening")

    def _interrupt(self, when: str) -> None:
        self.run.finish("interrupted")
        raise self.stop.interruption(f"interrupted {when}; saved in {self.run.path}: {GO_ON}")

    def _remember(self, batch: Sequence[CleanSample], rows: list[dict[str, Any]], found: Sequence[Found]) -> None:
        """What is kept beside the counts: rows and triples in classifier mode, and found images for hardening."""
        if self.config.harden:
            self.known.update({c.sample.index: f for c, f in zip(batch, found, strict=True)})
        if self.config.mode == "filter":
            return
        self.state.setdefault("rows", []).extend(rows)
        if self.config.images:
            kept = self.state.setdefault("found", {})
            for c, row, f in zip(batch, rows, found, strict=True):
                triple = {part: self._each(getattr(f, part)) for part in ("raw", "clipped")}
                kept[c.sample.index] = {**triple, "success": row["methods"]["exact"]["taus"]}

    def _each(self, noises: list[Tensor]) -> Tensor:
        """One for each bound: what is found within one is within all larger ones."""
        return torch.cat([*noises, *noises[-1:] * (len(self.config.taus) - len(noises))]).float().cpu()

    def _save(self) -> None:
        seconds = self.state.get("seconds", 0.0) + time.perf_counter() - self.began
        self.run.save(Checkpoint(self.done, {**self.state, "seconds": seconds}))

    def _note(self, tally: Tally, batches: int) -> None:
        """In the log only how far the run is; to the tracker the rates so far, of a filter once they are final."""
        self.run.log.write({"step": self.done, "of": batches, "samples": tally.n + tally.dropped})
        rates = {f"{name}/{tau:g}": tally.rate(name, k).share
                 for name in tally.methods for k, tau in enumerate(self.config.taus)}  # fmt: skip
        if self.team.main and (self.config.mode != "filter" or self.done == batches):
            self.tracker.log(self.done, rates)

    def _method(self, name: str) -> None:
        self._say(name)
        self.unit += 1

    def _say(self, what: str) -> None:
        if self.on_progress is not None and self.team.main:
            self.on_progress(min(self.unit, self.units), self.units, what)

    def _pairs(self, chosen: Sequence[CleanSample]) -> list[Pair]:
        """Clean and found pictures of counted samples, after the pipeline's safety checker; by flag only."""
        if not self.config.images or self.config.mode == "filter":
            return []
        counted = {row["index"] for row in self.state.get("rows", []) if row["methods"]["exact"]["counts"][-1]}
        pairs: list[Pair] = []
        for batch in batches_of([c.sample for c in chosen if c.sample.index in counted], self.config.batch_size):
            scene = self.bench.scene(batch)
            noise = torch.cat([self.state["found"][s.index]["clipped"][-1:] for s in batch]).to(scene.noise)
            shown: list[Tensor] = [
                self.bench.painter.paint(scene.embeds, scene.negative, x).shown for x in (scene.noise, noise)
            ]
            pairs += list(zip(batch, *shown, strict=True))
        return pairs


def _nothing_to_do(clean: Sequence[CleanSample]) -> str:
    wrong, unseen = sum(not c.right for c in clean), sum(c.right and not c.judged for c in clean)
    dropped = sum(c.dropped for c in clean)
    return (
        f"none of {len(clean)} clean images is right to start with, so there is nothing to audit: the network's "
        f"verdict is wrong on {wrong}, the judge does not see the class on {unseen} more, {dropped} trigger "
        "special_care. Look at the prompts, labels and the network's preprocessing, or take more sampling steps"
    )
