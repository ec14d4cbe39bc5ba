"""`maximise_reward(config, generator)`: a score of the images is maximised by gradients through the sampler.

Each step draws its images, scores them, takes the gradient of the mean score to the noise (ReNO, DNO), to an embedding,
or to the weights (DRaFT, AlignProp), and makes one AdamW step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adjointdpm.formats import fingerprint
from adjointdpm.runs import environment
from adjointdpm.tasks.again import in_python
from adjointdpm.tasks.images import parts
from adjointdpm.tasks.loop import History, optimise
from adjointdpm.tasks.networks import is_embedded
from adjointdpm.tasks.opening import check_generator, run_folder
from adjointdpm.tasks.reward.config import Item, RewardConfig
from adjointdpm.tasks.reward.objective import Objective
from adjointdpm.tasks.reward.outcome import REPORT_FILE, Compared, Outcome
from adjointdpm.tasks.reward.road import generator_for
from adjointdpm.tasks.reward.scores import Rewards
from adjointdpm.tasks.reward.subjects import Subject, subject_of
from adjointdpm.tasks.team import Team
from adjointdpm.tasks.tracking import open_tracker

__all__ = ["RewardResult", "maximise_reward"]


@dataclass(frozen=True)
class RewardResult:
    """What was learnt (`files`: noises, an embedding, or weights), the report, and what became of the rewards.

    `verdict` is "confirmed", "undecided", "hacked" or "no held-out reward"; `results` holds each reward before and
    after with the interval of its change, on the images that it was learnt on ("seen") and on others ("unseen").
    """

    folder: Path
    files: list[Path]
    report_path: Path
    verdict: str
    losses: list[float]
    results: dict[str, Any]
    record: dict[str, Any]


def maximise_reward(
    config: RewardConfig,
    generator: Any,
    *,
    on_step: Callable[[int, int, float], None] | None = None,
    team: Team | None = None,
    again: str | None = None,
) -> RewardResult:
    """Maximise what `config` describes with `generator` (of `ad.differentiable`).

    Resumes an interrupted run in `config.out`; a finished one only has its report drawn again.  The pipeline is as it
    was afterwards.

    Args:
        on_step: called as on_step(step, epochs, loss) after each step, in the main process.
        team: the processes that share the images; those of `accelerate launch` by default.
        again: the command that repeats the run, for the report.

    Raises:
        InvalidInput, NotDifferentiable: before any optimisation, if a reward, a setting or the folder does not fit.
        NonFinite: naming the step, if a score or a gradient stops being finite; the state before it is saved.
        OutputError: the folder is in use or cannot be written.
        RunInterrupted: (exit status 130 or 143) after saving on SIGINT or SIGTERM.
    """
    check_generator(generator)
    team = team or Team.join()
    again = again or in_python("maximise_reward", config)
    model = fingerprint(generator.pipe)
    folder = run_folder("reward", config, generator, team, again)
    generator = generator_for(generator, config)
    tracker = open_tracker(config.tracker, config.out, config.identity(), team)
    with (
        folder as run,
        subject_of(generator, config) as (subject, painter),
        closing(tracker),
    ):
        pairs = [Item(place, prompt, seed) for place, (prompt, seed) in enumerate(config.pairs)]
        first = pairs[:2]
        tried = painter.paint(*subject.before(first)).image.to(generator.pipe.device)
        rewards = Rewards.of(config, is_embedded(generator.pipe))
        others = [Item(place, prompt, seed) for place, (prompt, seed) in enumerate(config.unseen)]
        later = _batches(config, config.items(1), pairs, others)
        rewards.try_out(tried, [item.prompt for item in first], later)
        run.begin()
        objective = Objective(config, painter, subject, rewards, team, run, tracker)
        history = optimise(
            run, subject.parameters, objective.backward, config.loop_settings(), on_step,
            team=team, tracker=tracker, precision=painter.precision,
        )  # fmt: skip
        objective.log()
        if config.patience is not None:
            _restore_best(subject, history)
        files = subject.export(config.out, _provenance(config, generator, model)) if team.main else []
        seen = _compare(objective, pairs)
        unseen = _compare(objective, others) if others else None
        outcome = Outcome(config, rewards, history, seen, unseen, files, again, generator)
        if team.main:
            outcome.write(run)
        team.wait()
    return RewardResult(
        config.out,
        list(files),
        config.out / REPORT_FILE,
        outcome.verdict(),
        history.losses,
        outcome.results(),
        run.record,
    )


def _batches(config: RewardConfig, *several: Sequence[Item]) -> list[list[str]]:
    """Prompts of the images that rewards will be given at once."""
    return [[items[i].prompt for i in part] for items in several for part in parts(len(items), config.batch_size)]


def _compare(objective: Objective, items: Sequence[Item]) -> Compared:
    (before, scores_before), (after, scores_after) = objective.paint(items, before=True), objective.paint(items)
    return Compared(items, before, after, scores_before, scores_after)


def _restore_best(subject: Subject, history: History) -> None:
    """A run that may stop early ends with the parameters of the lowest loss, not with those that made it stop."""
    with torch.no_grad():
        for name, parameter in subject.parameters.items():
            parameter.copy_(history.best[name])


def _provenance(config: RewardConfig, generator: Any, model: dict[str, str]) -> dict[str, Any]:
    pipe = generator.pipe
    return {
        "base_model": model,
        "pipeline": type(pipe).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "generator": repr(generator),
        "settings": config.identity(),
        "versions": environment()["versions"],
    }
