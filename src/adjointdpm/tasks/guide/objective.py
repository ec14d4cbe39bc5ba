"""The sum over the images of all terms and of the penalty on untypical noise, with its gradient.

It is a sum, not a mean: no image's gradient depends on how many others there are, so that an image comes out the same
alone, in a batch, and on whichever process it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adjointdpm.formats import word_rows
from adjointdpm.losses import check_value
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.guide.saliency import Saliency
from adjointdpm.tasks.guide.terms import Seen, Term, weigh
from adjointdpm.tasks.guide.typicality import TYPICAL, deviance, on_shell
from adjointdpm.tasks.images import parts
from adjointdpm.tasks.painter import Painted, Painter
from adjointdpm.tasks.team import Team

__all__ = ["Objective"]

Values = Mapping[str, Tensor]


class Objective:
    """`parameters`, by name: "noise" (N, C, h, w), which starts at `drawn`, and "embedding" (N, L, D), what is added to
    the text rows behind the prompt's own words, in units of `embedding_lr / lr` so that one learning rate serves both.
    `wordings` are what is painted where it is not the prompts themselves.
    """

    def __init__(
        self,
        painter: Painter,
        config: GuideConfig,
        saliency: Saliency,
        terms: Sequence[Term],
        drawn: Tensor,
        team: Team,
        wordings: Sequence[str] | None = None,
    ) -> None:
        self.painter, self.config, self.saliency, self.terms, self.team = painter, config, saliency, terms, team
        prompts = [prompt for prompt, _ in config.cases]
        self.prompts = [prompts[i % len(prompts)] for i in range(len(drawn))]
        self.wordings = self.prompts if wordings is None else list(wordings)
        self.embeds, self.negative = painter.encode(self.wordings)
        number = torch.float64 if self.embeds.dtype == torch.float64 else torch.float32
        self.drawn = drawn.to(self.embeds.device, number)
        self.allowed = deviance(self.drawn).clamp_min(TYPICAL)  # no less typical than it began
        self.parameters: dict[str, nn.Parameter] = {}
        self._last: list[float] = []  # losses of this process's images at the last gradient
        if config.optimise in ("noise", "both"):
            self.parameters["noise"] = nn.Parameter(self.drawn.clone())
        if config.optimise in ("embedding", "both"):
            self.own = word_rows(painter.generator.pipe, self.wordings)
            self.parameters["embedding"] = nn.Parameter(torch.zeros_like(self.embeds, dtype=number))

    @property
    def count(self) -> int:
        return len(self.prompts)

    def initial(self, name: str) -> Tensor:
        """The value that a parameter starts from."""
        return self.drawn if name == "noise" else torch.zeros_like(self.parameters[name])

    def noise(self, values: Values, cases: Sequence[int]) -> Tensor:
        """x_T of some images."""
        drawn = self.drawn[list(cases)]
        if "noise" not in values:
            return drawn
        free = values["noise"][list(cases)]
        return on_shell(free, drawn) if self.config.shell else free

    def rows(self, values: Values, cases: Sequence[int]) -> Tensor:
        """Embeddings (B, L, D) of some images."""
        embeds = self.embeds[list(cases)]
        if "embedding" not in values:
            return embeds
        own = torch.tensor([self.own[i] for i in cases], device=embeds.device)
        free = torch.arange(embeds.shape[1], device=embeds.device)[None, :] >= own[:, None]  # (B, L)
        ratio = self.config.embedding_lr / self.config.lr
        return embeds + ratio * free[..., None] * values["embedding"][list(cases)].to(embeds.dtype)

    def losses(self, values: Values, cases: Sequence[int]) -> Tensor:
        """One number an image, (B,), with a graph where gradients are on."""
        noise = self.noise(values, cases)
        out = self.painter.generate(self.rows(values, cases), self.negative[list(cases)], noise)
        image: Tensor = out.image_unclamped  # the clamped image has no gradient where it is saturated
        total = self.of_images(image.to(noise.dtype), cases)
        if self.config.typicality and "noise" in values:
            total = total + self.config.typicality * (deviance(noise) - self.allowed[list(cases)]).clamp_min(0)
        return total

    def of_images(self, image: Tensor, cases: Sequence[int]) -> Tensor:
        """The terms alone, (B,)."""
        return weigh(self.terms, self.seen(image, cases))

    def seen(self, image: Tensor, cases: Sequence[int]) -> Seen:
        return Seen(image, self.saliency(image), [self.prompts[i] for i in cases], cases)

    def backward(self, step: int) -> float:
        """Add the gradient of this process's images to the parameters; returns their loss."""
        total, self._last = 0.0, []
        for cases in self._parts():
            losses = self.losses(self.parameters, cases)
            loss = check_value(losses.sum(), step)
            self.painter.backward(loss)
            total += float(loss.detach())
            self._last += losses.detach().tolist()
        return total

    def last_losses(self) -> Tensor:
        """The losses of all images at the last `backward`, (N,)."""
        return torch.tensor(self.team.gather(self._last), dtype=torch.float64)

    def values(self, values: Values) -> Tensor:
        """The losses of all images with other values of the parameters, (N,), without a gradient."""
        found = []
        with self.team.in_step(), torch.no_grad():
            for cases in self._parts():
                found += self.losses(values, cases).tolist()
        return torch.tensor(self.team.gather(found), dtype=torch.float64)

    def paint(self, values: Values) -> Painted:
        """The images (N, 3, H, W) that such parameters give."""
        images: list[Tensor] = []
        shown: list[Tensor] = []
        mine = self.team.mine(range(self.count))
        with self.team.in_step():
            if mine:
                with torch.no_grad():
                    noise, rows = self.noise(values, mine), self.rows(values, mine)
                made = self.painter.paint(rows, self.negative[mine], noise)
                images, shown = list(made.image), list(made.shown)
        return Painted(torch.stack(self.team.gather(images)), torch.stack(self.team.gather(shown)))

    def _parts(self) -> list[list[int]]:
        mine = self.team.mine(range(self.count))
        return [[mine[i] for i in part] for part in parts(len(mine), self.config.batch_size)]
