"""`invert(config, generator)`: paper 4.1, min over # of L(x*, Φ(x_T, {c, #})), saved and reported.

Each epoch draws the images of the training pairs (all, or some in turn) with the current embedding, from their own
noises, takes the exact gradient of the loss to the embedding through the whole sampler and decoder, and makes one AdamW
step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adjointdpm.formats import PromptEmbedding, TextualInversion, fingerprint
from adjointdpm.losses import check_loss, load_loss
from adjointdpm.runs import RunFolder, environment, load_tensors, save_tensors
from adjointdpm.tasks.again import in_python
from adjointdpm.tasks.inversion.compare import Comparison, compare_unseen
from adjointdpm.tasks.inversion.config import InvertConfig
from adjointdpm.tasks.inversion.objective import Objective
from adjointdpm.tasks.inversion.outcome import EMBEDDING_FILE, REPORT_FILE, Outcome
from adjointdpm.tasks.inversion.painter import Painted, Painter
from adjointdpm.tasks.inversion.spaces import PromptSpace, Space
from adjointdpm.tasks.inversion.targets import read_targets, true_effect
from adjointdpm.tasks.inversion.token_space import TokenSpace
from adjointdpm.tasks.loop import optimise
from adjointdpm.tasks.opening import check_generator, run_folder
from adjointdpm.tasks.team import Team
from adjointdpm.tasks.tracking import open_tracker

__all__ = ["InvertResult", "invert"]

PAIRS_FILE = "pairs.safetensors"


@dataclass(frozen=True)
class InvertResult:
    """`embedding` and its file, the report, the loss and gradient norm of each step, and the share of the gap closed:
    1 − d(with embedding, target) / d(plain, target) with the mean squared error, median over images; None where there
    is no true effect to compare with.
    """

    folder: Path
    embedding: PromptEmbedding | TextualInversion
    embedding_path: Path
    report_path: Path
    losses: list[float]
    grad_norms: list[float]
    seen_gap_closed: float
    unseen_gap_closed: float | None
    record: dict[str, Any]


def invert(
    config: InvertConfig,
    generator: Any,
    *,
    on_step: Callable[[int, int, float], None] | None = None,
    again: str | None = None,
) -> InvertResult:
    """Learn the embedding that `config` describes with `generator` (of `ad.differentiable`).

    Resumes an interrupted run in `config.out`; a finished one only has its report drawn again.  The pipeline's weights,
    tokenizer and text encoder are not changed.  `on_step(step, epochs, loss)` is called after each step; `again` is the
    command that repeats the run, for its record.
    Raises `InvalidInput` before any optimisation if something does not fit, `OutputError` if the folder is in use or
    cannot be written, `NonFinite` naming the step if loss or gradient stop being finite, and `RunInterrupted` (exit
    status 130 or 143) after saving on SIGINT or SIGTERM.
    """
    check_generator(generator)
    painter = Painter(generator, config)
    painter.check_changed_rows(config.prompts[0])
    team = Team.join()
    tracker = open_tracker(config.tracker, config.out, config.model_dump(mode="json"), team)
    with run_folder("invert", config, generator, team, again or in_python("invert", config)) as run:
        space: Space = PromptSpace(painter, config) if config.space == "prompt" else TokenSpace(painter, config)
        loss = load_loss(config.loss, _classifier)
        plain, target = _pairs(config, painter, run)
        check_loss(loss, plain.image, target.image)
        run.begin()
        pairs = {"plain": plain, "target": target}
        if team.main:
            save_tensors(config.out / PAIRS_FILE, {f"{n}.{k}": v for n, p in pairs.items() for k, v in vars(p).items()})
        objective = Objective(painter, space, loss, target, team)
        settings = config.loop_settings()
        history = optimise(
            run,
            {"embedding": space.parameter},
            objective.backward,
            settings,
            on_step,
            team=team,
            tracker=tracker,
            precision=painter.precision,
        )
        tracker.close()
        final = objective.value()  # the last update's own loss is not in the history
        if config.pairs_per_step is None and not final < min(history.losses):  # losses of few pairs do not compare
            final = min(history.losses)
            with torch.no_grad():
                space.parameter.copy_(history.best["embedding"])
        embedding = space.embedding(_provenance(config, generator, final))
        prompts, seeds = zip(*config.pairs, strict=True)
        seen = Comparison(prompts, seeds, plain, objective.paint(), target)
        outcome = Outcome(config, embedding, history, final, seen, compare_unseen(painter, space), generator)
        outcome.write(run)
        team.wait()  # until the files are there
    return InvertResult(
        config.out,
        embedding,
        config.out / EMBEDDING_FILE,
        config.out / REPORT_FILE,
        history.losses,
        history.grad_norms,
        run.record["results"]["gap_closed_seen"],
        run.record["results"]["gap_closed_unseen"],
        run.record,
    )


def _classifier() -> Any:
    from adjointdpm import zoo

    return zoo.classifier()


def _pairs(config: InvertConfig, painter: Painter, run: RunFolder) -> tuple[Painted, Painted]:
    """Plain images and targets of the training pairs; on resume those that the run began with."""
    if run.resumed is not None:
        tensors, _ = load_tensors(config.out / PAIRS_FILE)
        plain, target = (Painted(tensors[f"{n}.image"], tensors[f"{n}.shown"]) for n in ("plain", "target"))
        return plain, target
    prompts, seeds = [p for p, _ in config.pairs], [s for _, s in config.pairs]
    plain = painter.paint(*painter.encode(prompts), seeds)
    if config.target_images:
        return plain, read_targets(config.target_images, plain.image)
    wanted = true_effect(config, painter, prompts, seeds, plain)
    assert wanted is not None  # the configuration has exactly one target
    return plain, wanted


def _provenance(config: InvertConfig, generator: Any, final: float) -> dict[str, Any]:
    pipe = generator.pipe
    return {
        "base_model": fingerprint(pipe),
        "pipeline": type(pipe).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "generator": repr(generator),
        "settings": config.identity(),
        "final_loss": final,
        "versions": environment()["versions"],
    }
