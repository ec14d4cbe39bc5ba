"""The search for a change of the verdict: bounds in ascending order, each from where the last one ended.

A sample is done at the first change: a δ within a smaller bound is within all larger ones.  Each bound gives every
method the same number of network calls, `Budget.calls`; what `iterations` exact gradients and the look at the last
point cost.  Whoever needs fewer for a step takes more steps.

- gradient methods climb from the last bound's best point, then from random points for the remaining restarts;
- best of n draws points at the edge of the bound; `random` makes one draw for each bound.

A change of the verdict is confirmed once more on the noise put strictly within the bound, and on the image as it would
be saved; what does not survive that is no success, and the search goes on.  The confirmation is not counted as a
network call of the method.

A sample whose image triggers `special_care` at any time is dropped at once and only counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.optimisers import make_climber
from adjointdpm.tasks.audit.projections import Bound
from adjointdpm.tasks.audit.samples import Sample
from adjointdpm.tasks.audit.sources import Look, Scene, Source, require_finite

__all__ = ["Budget", "Found", "climb", "draw", "generator_of"]


@dataclass(frozen=True)
class Budget:
    """Network calls for each image.

    Attributes:
        calls: for each bound.
        forward: an image without a gradient.
        step: by method, an image with its gradient.
        left_out: baselines that there are no calls for, or that do not run, with the reason.
    """

    calls: int
    forward: int
    step: Mapping[str, int]
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Found:
    """What a method found for one sample.

    Attributes:
        tau: index of the first bound within which the verdict changed, or None.
        calls: network calls until then, over all bounds so far, or all that were made.
        dropped: `special_care` was triggered; the sample does not count.
        margins: best margin after each bound.
        raw, clipped: for each bound the best noise (1, …) as the search left it, and put strictly within the bound.
        image: (1, 3, H, W) of the last of `clipped`, as saved.
    """

    tau: int | None = None
    calls: int = 0
    dropped: bool = False
    margins: list[float] = field(default_factory=list)
    raw: list[Tensor] = field(default_factory=list)
    clipped: list[Tensor] = field(default_factory=list)
    image: Tensor | None = None

    @property
    def done(self) -> bool:
        return self.tau is not None or self.dropped


def generator_of(sample: Sample, purpose: str) -> torch.Generator:
    """Random numbers of a sample for one purpose: the same whatever batch, process or machine computes it."""
    digest = hashlib.sha256(f"{sample.seed}/{sample.prompt}/{sample.index}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def climb(config: AuditConfig, source: Source, scene: Scene, budget: Budget) -> list[Found]:
    """Search by gradients of `source`."""
    found = [Found() for _ in scene.samples]
    best = scene.noise.clone()
    margins = torch.full((len(found),), float("-inf"))
    for k, tau in enumerate(config.taus):
        bound = Bound(config.norm, tau)
        share = budget.calls // config.restarts
        for restart in range(config.restarts):
            rows = [i for i, f in enumerate(found) if not f.done]
            if not rows:
                break
            start = best[rows]
            if restart:
                purpose = f"{source.name}/{k}/{restart}"
                points = [bound.draw(scene.noise[[i]], generator_of(scene.samples[i], purpose)) for i in rows]
                start = torch.cat(points)
            _one_climb(config, source, scene, bound, k, rows, start, share, budget, found, best, margins)
            _confirm(source, scene, bound, [i for i in rows if found[i].tau == k], found, best, margins)
        for i, f in enumerate(found):
            if len(f.raw) == k and (not f.done or f.tau == k):
                _keep_best(f, float(margins[i]), best[[i]], scene.noise[[i]], bound)
    return found


def _one_climb(
    config: AuditConfig, source: Source, scene: Scene, bound: Bound, k: int, rows: list[int], x: Tensor, calls: int,
    budget: Budget, found: list[Found], best: Tensor, margins: Tensor,
) -> None:  # fmt: skip
    """One start within one bound; writes to `found`, `best` and `margins`, which belong to the whole batch."""
    spent, cost = 0, budget.step[source.name]
    steps = max(1, (calls - budget.forward) // cost)
    climber = make_climber(config.optimiser, bound, scene.noise[rows], config.relative_step, steps)
    while rows:
        here = scene.rows(rows)
        last = spent + cost + budget.forward > calls
        look = source.look(here, x) if last else source.climb(here, x)
        if not last and source.name == "exact":
            look = require_finite(look, here.samples)
        spent += look.calls
        kept = _note(look, rows, x, k, found, best, margins)
        if last:
            return
        assert look.gradient is not None
        if len(kept) < len(rows):
            index = torch.tensor(kept, dtype=torch.long)
            climber.keep(index.to(x.device))
            rows = [rows[i] for i in kept]
            x, gradient, loss = x[kept], look.gradient[kept], look.loss[kept]
        else:
            gradient, loss = look.gradient, look.loss
        if rows:
            x = climber.step(x, gradient, loss.to(x.device))


def _note(
    look: Look, rows: list[int], x: Tensor, k: int, found: list[Found], best: Tensor, margins: Tensor
) -> list[int]:
    """Write down what was seen; returns which of `rows` go on, as places in it."""
    kept = []
    for place, i in enumerate(rows):
        f, margin = found[i], float(look.margin[place])
        f.calls += look.calls
        if bool(look.dropped[place]):
            f.dropped = True
            continue
        if margin > float(margins[i]) or bool(look.changed[place]):
            margins[i], best[i] = margin, x[place]
            f.image = look.image[[place]]
        if bool(look.changed[place]):
            f.tau = k
            continue
        kept.append(place)
    return kept


def _confirm(
    source: Source, scene: Scene, bound: Bound, rows: list[int], found: list[Found], best: Tensor, margins: Tensor
) -> None:
    """Look at what was found for `rows` once more, strictly within the bound; what is refused is searched on."""
    if not rows:
        return
    x = torch.cat([bound.enforce(best[[i]], scene.noise[[i]]) for i in rows])
    look = source.look(scene.rows(rows), x)
    for place, i in enumerate(rows):
        f = found[i]
        f.image, f.dropped = look.image[[place]], bool(look.dropped[place])
        if not bool(look.changed[place]):
            f.tau, best[i], margins[i] = None, x[place], look.margin[place]


def draw(config: AuditConfig, source: Source, scene: Scene, budget: Budget, at_once: int) -> list[Found]:
    """Best of n random points at the edge of each bound, `at_once` of a sample's at a time."""
    found = []
    count = max(1, budget.calls // budget.forward)
    for i, sample in enumerate(scene.samples):
        f, center, alone = Found(), scene.noise[[i]], scene.rows([i])
        best, margins = center.clone(), torch.full((1,), float("-inf"))
        for k, tau in enumerate(config.taus):
            bound, generator = Bound(config.norm, tau), generator_of(sample, f"draws/{k}")
            points = [bound.draw(center, generator, corner=True) for _ in range(count)]
            for begin in range(0, count, at_once):
                few = torch.cat(points[begin : begin + at_once])
                look = source.look(alone.repeated(len(few)), few)
                for place in range(len(few)):
                    _note(look.row(place), [0], few[[place]], k, [f], best, margins)
                    if f.tau is not None:
                        _confirm(source, alone, bound, [0], [f], best, margins)
                    if f.done:
                        break
                if f.done:
                    break
            _keep_best(f, float(margins[0]), best.clone(), center, bound)
            if f.done:
                break
        found.append(f)
    return found


def _keep_best(found: Found, margin: float, best: Tensor, center: Tensor, bound: Bound) -> None:
    """The best of one bound: its margin, and the noise as it was left and put strictly within the bound."""
    found.margins.append(margin)
    found.raw.append(best)
    found.clipped.append(bound.enforce(best, center))
