"""`stylize_model(config, generator)`: paper 4.2, min over weights of w_s L_s + w_c L_c, saved, exported and reported.

Each step draws the images of a few training pairs with the present weights, takes the exact gradient of the loss to
these weights through the whole sampler and decoder, and makes one AdamW step.  What is saved loads in plain diffusers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.losses import check_loss
from adjointdpm.losses.style import StyleTarget
from adjointdpm.runs import JsonlLog, RunFolder, load_tensors, read_jsonl, save_tensors
from adjointdpm.runs.log import NoLog
from adjointdpm.tasks.again import in_python
from adjointdpm.tasks.loop import History, optimise
from adjointdpm.tasks.networks import object_judge
from adjointdpm.tasks.opening import check_generator, run_folder
from adjointdpm.tasks.painter import Painted, Painter
from adjointdpm.tasks.stylize.compare import Comparison, paint_pairs
from adjointdpm.tasks.stylize.config import StylizeConfig
from adjointdpm.tasks.stylize.networks import Networks, wide
from adjointdpm.tasks.stylize.objective import Objective
from adjointdpm.tasks.stylize.outcome import REPORT_FILE, WEIGHTS, Outcome
from adjointdpm.tasks.stylize.style_image import open_style, style_tensor
from adjointdpm.tasks.stylize.validation import Validation
from adjointdpm.tasks.team import Team
from adjointdpm.tasks.tracking import open_tracker
from adjointdpm.tasks.weights import Trained

__all__ = ["StylizeResult", "stylize_model"]

BEFORE_FILE, TERMS_FILE, VALIDATION = "before.safetensors", "terms.jsonl", "validation"
TRAINING = "training pairs"


@dataclass(frozen=True)
class StylizeResult:
    """The folder of the weights, the report, the loss of each step, and the figures of `run.json`.

    `results["sets"]` has, for images of the training pairs, of other noises and of other prompts, the mean Gram
    distance before and after in each network, and the share of objects recognised where somebody can say; "work" counts
    network evaluations of single images.
    """

    folder: Path
    weights: Path
    report_path: Path
    losses: list[float]
    results: Mapping[str, Any]
    record: Mapping[str, Any]


def stylize_model(
    config: StylizeConfig,
    generator: Any,
    *,
    on_step: Callable[[int, int, float], None] | None = None,
    team: Team | None = None,
    again: str | None = None,
) -> StylizeResult:
    """Fine-tune as `config` describes with `generator` (of `ad.differentiable`).

    Resumes an interrupted run in `config.out`; a finished one only has its report drawn again.  The pipeline is as it
    was afterwards.  `on_step(step, steps, loss)` is called after each step.  Under `accelerate launch` the processes
    share the pairs of each step.  `again` is the command that repeats the run, for the report.
    Raises `InvalidInput` or `NotDifferentiable` before any optimisation if something does not fit, `OutputError` if
    the folder is in use or cannot be written, `NonFinite` naming the step if loss or gradient stop being finite, and
    `RunInterrupted` (exit status 130 or 143) after saving on SIGINT or SIGTERM.
    """
    check_generator(generator)
    team = team or Team.join()
    pipe = generator.pipe
    picture = open_style(config.style)
    networks = Networks.load(config, pipe)
    trained = Trained(pipe, config.weights, config.rank, config.alpha, config.init_seed)
    trained.check_precision(config.mixed_precision)
    style_hash = hashlib.sha256(config.style.read_bytes()).hexdigest()[:16]
    again = again or in_python("stylize_model", config)
    facts = {"features": networks.features, "style": style_hash}
    with (
        closing(open_tracker(config.tracker, config.out, config.model_dump(mode="json"), team)) as tracker,
        run_folder("stylize", config, generator, team, again, facts) as run,
        trained,
    ):
        painter = Painter(generator, config, wrt=("weights",) if config.weights == "all" else ())
        before = _kept(run, config)
        first = (before or paint_pairs(painter, team, config.pairs[:1])).image[:1]
        side = round(min(first.shape[-2:]) * config.style_scale)
        style = style_tensor(picture, side, str(config.style)).to(pipe.device, wide(pipe.dtype))
        networks.check(config, first.to(style))
        loss, meters = networks.loss(config, style), networks.meters(config, style)
        check_loss(loss, first.to(style), first.to(style))
        before = before or paint_pairs(painter, team, config.pairs)
        run.begin()
        log = _files(run, before, team, config)
        objective = Objective(painter, config, loss, before.image, team, log)
        validation = Validation(config.out / VALIDATION, config, painter, meters, team)

        def backward(step: int) -> float:
            validation.before_step(step)
            return objective.backward(step)

        loop = config.loop_settings()
        shared: dict[str, Any] = {"team": team, "tracker": tracker, "precision": painter.precision}
        history = optimise(run, trained.parameters, backward, loop, on_step, **shared)
        _keep_best(config, history, trained.parameters)
        if config.validate_every:
            validation.draw(len(history.losses))
        comparisons = _compare(painter, trained, team, before, meters)
        outcome = Outcome(config, networks, style, history, comparisons, validation, again)
        if team.main:
            trained.export(config.out / WEIGHTS)
            outcome.write(run, read_jsonl(config.out / TERMS_FILE))
        team.wait()
        results = outcome.results(read_jsonl(config.out / TERMS_FILE))
    report, weights = config.out / REPORT_FILE, config.out / WEIGHTS
    return StylizeResult(config.out, weights, report, history.losses, results, run.record)


def _kept(run: RunFolder, config: StylizeConfig) -> Painted | None:
    """On resume the images of the training pairs before tuning, which the run began with."""
    if run.resumed is None:
        return None
    tensors, _ = load_tensors(config.out / BEFORE_FILE)
    return Painted(tensors["image"], tensors["shown"])


def _files(run: RunFolder, before: Painted, team: Team, config: StylizeConfig) -> JsonlLog | NoLog:
    """Keep the images before, and open the log of the two terms of the loss."""
    if not team.main:
        return NoLog()
    if run.resumed is None:
        save_tensors(config.out / BEFORE_FILE, vars(before))
    return JsonlLog(config.out / TERMS_FILE, 0 if run.resumed is None else run.resumed.step)


def _keep_best(config: StylizeConfig, history: History, parameters: Mapping[str, Tensor]) -> None:
    """The state of the lowest loss, if it ended early; losses of different pairs do not compare."""
    if config.patience is None or config.together < len(config.pairs):
        return
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(history.best[name])


def _compare(
    painter: Painter, trained: Trained, team: Team, before: Painted, meters: Mapping[str, StyleTarget]
) -> list[Comparison]:
    """The training pairs, other noises of the same prompts, and other prompts."""
    config = painter.config
    assert isinstance(config, StylizeConfig)
    sets: dict[str, tuple[tuple[str, int], ...]] = {
        TRAINING: config.pairs,
        "unseen noises": tuple((prompt, seed) for prompt in config.prompts for seed in config.unseen_seeds),
        "unseen prompts": tuple((prompt, seed) for prompt in config.unseen for seed in config.unseen_seeds),
    }
    judge = object_judge(painter.generator.pipe)
    found = []
    for title, pairs in sets.items():
        if not pairs:
            continue
        after = paint_pairs(painter, team, pairs)
        with trained.disabled():
            plain = before if title == TRAINING else paint_pairs(painter, team, pairs)
        found.append(Comparison.of(title, pairs, plain, after, meters, judge))
    return found
