"""Where the optimisation starts: the noise of each seed, or the best few of some.

A gradient changes an image from where it is, so a start that is nearly right saves many steps.  Noise number k of seed
s is that of seed s + k * 1000003; number 0 is the seed's own, and what it gives is the unguided image.  With phrases,
the candidates take turns with them: words that a model knows are the cheapest way near.  Where a place is asked for,
each noise is also tried moved: rolled by as many cells as the object is away from that place.  Rolled noise is as
typical as it was, and what is drawn from it mostly moves with it, unless the model has learnt to draw in one place.
With `blend`, each noise is tried with some of a guess in it (`guess.py`), which such a model heeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.grid import as_grid, laid_out_as
from adjointdpm.tasks.guide.guess import Guess, blended
from adjointdpm.tasks.painter import Painted, Painter
from adjointdpm.tasks.team import Team

__all__ = ["STRIDE", "Place", "Start", "choose", "moved", "paint_cases", "seeds_of", "way_to", "wordings"]

STRIDE = 1_000_003
Place = Callable[[Tensor], list[tuple[int, int]]]


@dataclass(frozen=True)
class Start:
    """The chosen noises (N, C, h, w), their seeds, how far they were moved (right and down, in cells) and how much of a
    guess was blended in, the images that they give, those that the same noises give as drawn (N, 3, H, W), and the
    seeds' own (unguided) images.

    N is the number of cases times that of starts: all cases' best candidates, then all cases' second best, and so on.
    """

    noise: Tensor
    seeds: list[int]
    moves: list[tuple[int, int]]
    blends: list[float]
    images: Painted
    unmoved: Tensor
    plain: Painted

    def of(self, chosen: Sequence[int]) -> Start:
        """Those numbers alone."""
        rows = list(chosen)
        images = Painted(self.images.image[rows], self.images.shown[rows])
        seeds, moves = [self.seeds[i] for i in rows], [self.moves[i] for i in rows]
        blends = [self.blends[i] for i in rows]
        return Start(self.noise[rows], seeds, moves, blends, images, self.unmoved[rows], self.plain)


@dataclass(frozen=True)
class _Tried:
    """One candidate of every case, as in `Start`, and its losses (N,)."""

    noise: Tensor
    seeds: list[int]
    moves: list[tuple[int, int]]
    blend: float
    made: Painted
    unmoved: Tensor
    losses: Tensor


def seeds_of(config: GuideConfig, candidate: int) -> list[int]:
    """The seed of each case's candidate number `candidate`."""
    return [seed + candidate * STRIDE for _, seed in config.cases]


def wordings(config: GuideConfig, seeds: Sequence[int]) -> list[str]:
    """What is painted from each noise, which follows from its seed; the cases take turns."""
    turns = (config.cases[i % len(config.cases)] for i in range(len(seeds)))
    return [
        config.wording(prompt, (start - seed) // STRIDE) for (prompt, seed), start in zip(turns, seeds, strict=True)
    ]


def paint_cases(painter: Painter, team: Team, prompts: Sequence[str], noise: Sequence[int] | Tensor) -> Painted:
    """Images of all cases from seeds or noises, each process making its share."""
    mine = team.mine(range(len(prompts)))
    images: list[Tensor] = []
    shown: list[Tensor] = []
    with team.in_step():
        if mine:
            embeds, negative = painter.encode([prompts[i] for i in mine])
            chosen = noise[mine] if isinstance(noise, Tensor) else [noise[i] for i in mine]
            made = painter.paint(embeds, negative, chosen)
            images, shown = list(made.image), list(made.shown)
    return Painted(torch.stack(team.gather(images)), torch.stack(team.gather(shown)))


def moved(noise: Tensor, steps: Sequence[tuple[int, int]]) -> Tensor:
    """Noises, each rolled by its own number of cells to the right and down."""
    cells = zip(as_grid(noise), steps, strict=True)
    return laid_out_as(noise, torch.stack([z.roll((down, right), (-2, -1)) for z, (right, down) in cells]))


def way_to(
    box: Sequence[float], boxes: Tensor, pixels: tuple[int, int], cells: tuple[int, int]
) -> list[tuple[int, int]]:
    """How many cells each object is away from `box`: from the middle of its own box (N, 4); (0, 0) without one.

    pixels, cells: (H, W) of the image and of the noise.
    """
    found = []
    for left, top, right, bottom in boxes.tolist():
        if right <= left:
            found.append((0, 0))
            continue
        across, down = (box[0] + box[2] - left - right) / 2, (box[1] + box[3] - top - bottom) / 2
        found.append((round(across * cells[1] / pixels[1]), round(down * cells[0] / pixels[0])))
    return found


def choose(
    config: GuideConfig, painter: Painter, team: Team, plain: Painted, place: Place | None, guess: Guess | None,
    weigh: Callable[[Tensor], Tensor],
) -> Start:  # fmt: skip
    """The best candidates of each case, `config.starts` of them.

    place: finds from images (N, 3, H, W) how many cells each object is away from where it shall be; None: nowhere.
    guess: gives from images the latents of what is asked for; None: nothing is blended.
    weigh: the losses (N,) of one image of each case (N, 3, H, W).
    """
    still = [(0, 0)] * len(config.cases)
    tried: list[_Tried] = []
    for candidate in range(config.candidates):
        seeds = seeds_of(config, candidate)
        prompts, noise = wordings(config, seeds), painter.noise(seeds)
        made = plain if candidate == 0 else paint_cases(painter, team, prompts, noise)
        tried.append(_Tried(noise, seeds, still, 0.0, made, made.image, weigh(made.image)))
        if place is not None and config.move_noise:
            moves = place(made.image)
            if any(move != (0, 0) for move in moves):
                rolled = moved(noise, moves)
                there = paint_cases(painter, team, prompts, rolled)
                tried.append(_Tried(rolled, seeds, moves, 0.0, there, made.image, weigh(there.image)))
        if guess is not None:
            latents = guess(made.image)
            for amount in config.blend or ():
                mixed = blended(noise, latents, amount)
                there = paint_cases(painter, team, prompts, mixed)
                tried.append(_Tried(mixed, seeds, still, amount, there, made.image, weigh(there.image)))
    return _best(tried, config.starts, plain)


def _best(tried: Sequence[_Tried], starts: int, plain: Painted) -> Start:
    """Of every case the candidates of the lowest losses; the first of equal ones."""
    order = torch.stack([candidate.losses for candidate in tried]).argsort(dim=0, stable=True)[:starts]
    picks = [(tried[place], case) for row in order.tolist() for case, place in enumerate(row)]
    return Start(
        torch.stack([candidate.noise[case] for candidate, case in picks]),
        [candidate.seeds[case] for candidate, case in picks],
        [candidate.moves[case] for candidate, case in picks],
        [candidate.blend for candidate, _ in picks],
        Painted(
            torch.stack([candidate.made.image[case] for candidate, case in picks]),
            torch.stack([candidate.made.shown[case] for candidate, case in picks]),
        ),
        torch.stack([candidate.unmoved[case] for candidate, case in picks]),
        plain,
    )
