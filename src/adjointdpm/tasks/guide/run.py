"""`guide_images(config, generator)`: min over x_T (and the embedding) of the terms of Φ(x_T, c), saved and reported.

All images are optimised side by side, each by its own gradient, exact through every sampling step and the decoder.
Each has a learning rate of its own (`tasks/plateau.py`).  What is kept of each is the best of three: where the
optimisation ended, its state of the lowest loss, and its start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from adjointdpm.runs import RunFolder, load_tensors, save_tensors
from adjointdpm.tasks.again import in_python
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.effort import Effort
from adjointdpm.tasks.guide.fitting import fitted, image_size
from adjointdpm.tasks.guide.grid import as_grid
from adjointdpm.tasks.guide.guess import guess_of
from adjointdpm.tasks.guide.marks import given_pictures
from adjointdpm.tasks.guide.objective import Objective, Values
from adjointdpm.tasks.guide.objectives import bounding_boxes
from adjointdpm.tasks.guide.outcome import GuideResult, Outcome
from adjointdpm.tasks.guide.saliency import Saliency, check_saliency, load_saliency
from adjointdpm.tasks.guide.start import Place, Start, choose, paint_cases, seeds_of, way_to, wordings
from adjointdpm.tasks.guide.terms import Seen, Term, build_terms, collage_term, place_of, weigh
from adjointdpm.tasks.guide.trial import check_terms
from adjointdpm.tasks.loop import History, optimise
from adjointdpm.tasks.opening import check_generator, run_folder
from adjointdpm.tasks.painter import Painted, Painter
from adjointdpm.tasks.plateau import Plateaus
from adjointdpm.tasks.team import Team
from adjointdpm.tasks.tracking import open_tracker

__all__ = ["guide_images"]

START_FILE = "start.safetensors"
FILES = ("mask", "image", "keep", "sketch", "low_resolution")


def guide_images(
    config: GuideConfig,
    generator: Any,
    *,
    on_step: Callable[[int, int, float], None] | None = None,
    again: str | None = None,
) -> GuideResult:
    """Optimise what `config` describes with `generator` (of `ad.differentiable`).

    Resumes an interrupted run in `config.out`; a finished one only has its report drawn again.  The pipeline is not
    changed.  `on_step(step, updates, loss)` is called after each step; `again` is the command that repeats the run, for
    the report.
    Raises `InvalidInput` before any optimisation if something does not fit, `OutputError` if the folder is in use or
    cannot be written, `NonFinite` naming the step if loss or gradient stop being finite, and `RunInterrupted` (exit
    status 130 or 143) after saving on SIGINT or SIGTERM.
    """
    check_generator(generator)
    team = Team.join()
    again = again or in_python("guide_images", config)
    trial = Painter(generator, config, wrt=("x_T",))
    size = image_size(trial)
    saliency = load_saliency(config.saliency, _classifier)
    config = fitted(config, trial, size)
    asked, given = build_terms(config, size, _classifier), given_pictures(config, size)
    assert config.optimise is not None
    wrt = {"noise": ("x_T",), "embedding": ("cond",), "both": ("x_T", "cond")}[config.optimise]
    painter = Painter(generator, config, wrt=wrt)
    with (
        closing(open_tracker(config.tracker, config.out, config.identity(), team)) as tracker,
        run_folder("guide", config, generator, team, again, _files(config)) as run,
    ):
        start = _start(config, painter, team, run, saliency, asked)
        terms = asked + collage_term(config, start.unmoved, saliency)
        objective = Objective(painter, config, saliency, terms, start.noise, team, wordings(config, start.seeds))
        run.begin()
        if team.main:
            _save(run, start)
        effort = Effort(run, painter, team)

        def stepped(step: int, steps: int, loss: float) -> None:
            effort.note(step)
            if on_step is not None:
                on_step(step, steps, loss)

        plateaus = Plateaus(objective.last_losses, config.plateau) if config.lr_schedule == "plateau" else None
        history = optimise(
            run, objective.parameters, objective.backward, config.loop_settings(), stepped,
            team=team, tracker=tracker, precision=painter.precision, plateaus=plateaus,
        )  # fmt: skip
        values, chosen = _best(objective, history, len(config.cases))
        if config.starts > 1:
            start = start.of(chosen)
            terms = asked + collage_term(config, start.unmoved, saliency)
            objective = Objective(painter, config, saliency, terms, start.noise, team, wordings(config, start.seeds))
        outcome = Outcome.of(objective, start, values, history, effort, again, given)
        if team.main:
            outcome.write(run)
        else:
            run.finish("finished", outcome.results())
    return outcome.result(run)


def _files(config: GuideConfig) -> dict[str, str]:
    """Hashes of the files that the configuration names: with another mask it is another run."""
    found = {}
    for name in FILES:
        path = getattr(config, name)
        if path is not None and path.is_file():
            found[f"{name} file"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def _classifier() -> Any:
    from adjointdpm import zoo

    return zoo.classifier()


def _start(
    config: GuideConfig, painter: Painter, team: Team, run: RunFolder, saliency: Saliency, terms: Sequence[Term]
) -> Start:
    """Starting noises; on resume those that the run began with.  Everything is tried on the first image."""
    prompts = [prompt for prompt, _ in config.cases]
    known = _load(run)
    plain = known.plain if known is not None else paint_cases(painter, team, prompts, seeds_of(config, 0))
    first, size = plain.image[:1], (plain.image.shape[-2], plain.image.shape[-1])
    check_saliency(saliency, first)
    check_terms(
        [*terms, *collage_term(config, first, saliency)], Seen(first, saliency(first), prompts[:1], [0]), saliency
    )
    if known is not None:
        return known

    def losses(images: Tensor) -> Tensor:
        with torch.no_grad():
            return weigh(terms, Seen(images, saliency(images), prompts, range(len(prompts))))

    place, guess = _place(config, painter, saliency, size), guess_of(config, painter, saliency, size)
    return choose(config, painter, team, plain, place, guess, losses)


def _place(config: GuideConfig, painter: Painter, saliency: Saliency, size: tuple[int, int]) -> Place | None:
    """How far objects are from the box or the mask that was asked for, in cells of the noise."""
    box = place_of(config, size)
    if box is None:
        return None
    cells = as_grid(painter.noise([0])).shape[-2:]

    def place(images: Tensor) -> list[tuple[int, int]]:
        with torch.no_grad():
            return way_to(box, bounding_boxes(saliency(images)), size, (int(cells[0]), int(cells[1])))

    return place


def _best(objective: Objective, history: History, cases: int) -> tuple[Values, list[int]]:
    """Parameters of each case's best image, and which of its starts that is.

    Of each image the lowest loss counts of three: with the last parameters, with those of the lowest total, the first.
    """
    last = {name: parameter.detach() for name, parameter in objective.parameters.items()}
    first = {name: objective.initial(name) for name in last}
    kept = {name: value.to(last[name]) for name, value in history.best.items()} or first
    ends = [last, kept, first]
    losses, choice = torch.stack([objective.values(end) for end in ends]).min(dim=0)  # (N,) over the three
    starts = losses.view(-1, cases).argmin(dim=0).tolist()
    chosen = [start * cases + case for case, start in enumerate(starts)]
    return {name: torch.stack([ends[int(choice[i])][name][i] for i in chosen]) for name in last}, chosen


def _save(run: RunFolder, start: Start) -> None:
    images = {f"{n}.{k}": v for n, p in (("images", start.images), ("plain", start.plain)) for k, v in vars(p).items()}
    places = {"seeds": torch.tensor(start.seeds), "moves": torch.tensor(start.moves)}
    places["blends"] = torch.tensor(start.blends, dtype=torch.float64)
    save_tensors(run.path / START_FILE, {"noise": start.noise, "unmoved": start.unmoved, **places, **images})


def _load(run: RunFolder) -> Start | None:
    if run.resumed is None:
        return None
    tensors, _ = load_tensors(run.path / START_FILE)
    images, plain = (Painted(tensors[f"{n}.image"], tensors[f"{n}.shown"]) for n in ("images", "plain"))
    moves = [(right, down) for right, down in tensors["moves"].tolist()]
    seeds, blends = tensors["seeds"].tolist(), tensors["blends"].tolist()
    return Start(tensors["noise"], seeds, moves, blends, images, tensors["unmoved"], plain)
