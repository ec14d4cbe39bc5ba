"""Where gradients of the noise come from: the exact one, and the two that it is compared with.

Each `look` draws the images of noises, asks the subject, and (with a gradient) goes back to the noise.  What counts is
the network's work for each image: forwards, forwards run again in backward, and vector-Jacobian products.

- exact: through every step of the sampler that draws the image, on either road.
- one_step: the x_0-hat that the network predicts at the first node stands for the whole chain (SDO's shortcut): on the
  ODE road the engine of that name; on the pipeline road the same by hand, the decoder at the true latents and one
  network call below them.
- adjoint: the paper's continuous adjoint.  It belongs to an ODE, so on the pipeline road the gradient is that of the
  AB4 solution from the same noise, and the verdict is on the pipeline's own image; that costs both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable, NumericalWarning
from adjointdpm.pipelines.autoencode import decode
from adjointdpm.pipelines.components import autoencoder_of
from adjointdpm.pipelines.wrt import without_grad
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.painters import AuditPainter, ClassPainter
from adjointdpm.tasks.audit.samples import Sample
from adjointdpm.tasks.audit.subject import Opinion, Subject, as_saved
from adjointdpm.tasks.painter import Painter

__all__ = ["Look", "Scene", "Source", "make_source", "painter_for", "require_finite"]

ADJOINT = {"solver": "ab4", "gradient": "adjoint", "memory": None}


@dataclass(frozen=True)
class Scene:
    """A batch of samples: their conditioning and the noise that they start from, (B, …) each."""

    samples: Sequence[Sample]
    embeds: Tensor
    negative: Tensor
    noise: Tensor

    def rows(self, kept: Sequence[int]) -> Scene:
        index = torch.tensor(list(kept), dtype=torch.long, device=self.noise.device)
        there = index.to(self.embeds.device)
        return Scene([self.samples[i] for i in kept], self.embeds[there], self.negative[there], self.noise[index])

    def repeated(self, count: int) -> Scene:
        """`count` copies of the only sample."""
        return self.rows([0] * count)


@dataclass(frozen=True)
class Look:
    """What a look at noises (B, …) found; tensors (B,) on the CPU, images (B, 3, H, W) as saved.

    `calls` are the calls of the denoiser for each image, backward included.  `gradient` is None without one.
    """

    loss: Tensor
    margin: Tensor
    changed: Tensor
    dropped: Tensor
    image: Tensor
    calls: int
    gradient: Tensor | None = None

    def row(self, place: int) -> Look:
        """What it found at one of the noises."""
        loss, margin, changed, dropped = (t[[place]] for t in (self.loss, self.margin, self.changed, self.dropped))
        return Look(loss, margin, changed, dropped, self.image[[place]], self.calls)


class Source(Protocol):
    """Looks at noises, with a gradient or without."""

    name: str

    def look(self, scene: Scene, x: Tensor) -> Look: ...

    def climb(self, scene: Scene, x: Tensor) -> Look: ...


def painter_for(generator: Any, config: AuditConfig) -> Painter:
    """How images are asked for: by text, or by class labels where the pipeline takes those."""
    if hasattr(generator.pipe, "encode_prompt"):
        return AuditPainter(generator, config, ("x_T",))
    if "class_labels" in generator.accepts:
        return ClassPainter(generator, config, ("x_T",))
    raise InvalidInput(
        f"{type(generator.pipe).__name__} takes neither prompts nor class_labels: an audit needs to know what an "
        "image should show"
    )


Drawn = tuple[Tensor, Callable[[], int]]  # the unclamped image, and the calls once backward has run


class Exact:
    """The audited generator's own images and their exact gradients."""

    name = "exact"

    def __init__(self, painter: Painter, subject: Subject) -> None:
        self.painter, self.subject = painter, subject

    def look(self, scene: Scene, x: Tensor) -> Look:
        """Verdicts alone."""
        with torch.no_grad():
            out = self.painter.generate(scene.embeds, scene.negative, x)
            image = as_saved(out.image_unclamped)
            opinion = self.subject.opinion(image, scene.samples)
        return _look(opinion, image, int(out.stats.nfe))

    def climb(self, scene: Scene, x: Tensor) -> Look:
        """Verdicts and the gradient of the subject's loss."""

        def draw(leaf: Tensor) -> Drawn:
            out = self.painter.generate(scene.embeds, scene.negative, leaf)
            return out.image_unclamped, lambda: calls_of(out)

        return self._through(scene, x, draw)

    def _through(self, scene: Scene, x: Tensor, draw: Callable[[Tensor], Drawn]) -> Look:
        while True:
            leaf = x.detach().clone().requires_grad_()
            with torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore", NumericalWarning)  # biased on purpose; the report says so
                unclamped, calls = draw(leaf)
                image = as_saved(unclamped)
                opinion = self.subject.opinion(image, scene.samples)
                self.painter.backward(opinion.loss.sum())
            assert leaf.grad is not None
            gradient = leaf.grad / self.painter.precision.scale
            if bool(torch.isfinite(gradient).all()) or not self.painter.precision.lower():
                return _look(opinion, image, calls(), gradient)


def _look(opinion: Opinion, image: Tensor, calls: int, gradient: Tensor | None = None) -> Look:
    loss, margin = (t.detach().float().cpu() for t in (opinion.loss, opinion.margin))
    return Look(loss, margin, opinion.changed.cpu(), opinion.dropped.cpu(), image.detach().cpu(), calls, gradient)


def calls_of(out: Any) -> int:
    """Network calls of a result whose backward has run: forwards, those run again, vector-Jacobian products."""
    if out.stats.gradient == "full":  # plain backprop: a product for each call, and nothing is run again
        return 2 * int(out.stats.nfe)
    sources = out.stats.counts.sources
    solves = [source.backward() for source in sources if hasattr(source, "backward")]  # the ODE road's own counts
    found = solves or [{"recomputations": s.recomputations, "vjps": s.vjps} for s in sources]
    kinds = ("recomputations", "nfe", "vjps")
    return int(out.stats.nfe) + sum(int(counts.get(kind, 0)) for counts in found for kind in kinds)


class Approximate(Exact):
    """A biased engine of the ODE road, on the audited generator's own images."""

    def __init__(self, painter: Painter, subject: Subject, name: str) -> None:
        super().__init__(painter, subject)
        self.name = name

    def climb(self, scene: Scene, x: Tensor) -> Look:
        return _finite(super().climb(scene, x))


class OneStepByHand(Exact):
    """The one-step gradient of the pipeline road."""

    name = "one_step"

    def __init__(self, painter: Painter, subject: Subject) -> None:
        super().__init__(painter, subject)
        ode = painter.generator.with_(solver="euler", gradient="exact", memory=None)
        self.first = painter.twin(ode, ("x_T",), steps=1)  # one step to sigma = 0 lands on x_0-hat

    def climb(self, scene: Scene, x: Tensor) -> Look:
        pipe = self.painter.generator.pipe
        with torch.no_grad():
            end = self.painter.generate(scene.embeds, scene.negative, x)

        def draw(leaf: Tensor) -> Drawn:
            guess = self.first.generate(scene.embeds, scene.negative, leaf).latents
            latents = guess + (end.latents - guess).detach()  # the value of `end`, the derivative of the guess
            return decode(pipe, latents) * 0.5 + 0.5, lambda: int(end.stats.nfe) + 2

        vae = autoencoder_of(pipe)
        with without_grad(() if vae is None else vae.parameters()):
            return _finite(self._through(scene, x, draw))


class AdjointBeside(Exact):
    """The paper's adjoint where the audited generator is no ODE: its gradient, and the pipeline's verdict."""

    name = "adjoint"

    def __init__(self, painter: Painter, subject: Subject) -> None:
        super().__init__(painter, subject)
        beside = painter.twin(painter.generator.with_(**ADJOINT), ("x_T",))
        self.beside = Approximate(beside, subject, "adjoint")

    def climb(self, scene: Scene, x: Tensor) -> Look:
        found = self.look(scene, x)
        gradient = self.beside.climb(scene, x)
        return replace(found, gradient=gradient.gradient, calls=found.calls + gradient.calls)


def _finite(look: Look) -> Look:
    """A biased gradient that blew up moves its image nowhere: the rows that are not finite become 0."""
    gradient = look.gradient
    assert gradient is not None
    finite = torch.isfinite(gradient).flatten(1).all(dim=1).reshape(-1, *[1] * (gradient.ndim - 1))
    return replace(look, gradient=torch.where(finite, gradient, torch.zeros_like(gradient)))


def require_finite(look: Look, samples: Sequence[Sample]) -> Look:
    """Raise `NonFinite` naming the sample if an exact gradient is not finite."""
    assert look.gradient is not None
    bad = ~torch.isfinite(look.gradient).flatten(1).all(dim=1)
    if bool(bad.any()):
        sample = samples[int(bad.nonzero()[0])]
        raise NonFinite(
            f"the gradient of the loss is not finite for sample {sample.index} (seed {sample.seed}); try "
            "mixed_precision 'no', or another loss"
        )
    return look


def make_source(name: str, painter: Painter, subject: Subject) -> Source:
    """The source of that name for the audited generator.

    Raises `InvalidInput` or `NotDifferentiable` where the generator cannot have it, such as a scheduler that no ODE is
    known for.
    """
    if name == "exact":
        return Exact(painter, subject)
    on_ode = painter.generator.road == "ode"
    try:
        if on_ode:
            engine = painter.generator.with_(gradient=name, memory=None)
            return Approximate(painter.twin(engine, ("x_T",)), subject, name)
        return OneStepByHand(painter, subject) if name == "one_step" else AdjointBeside(painter, subject)
    except (InvalidInput, NotDifferentiable) as error:
        raise type(error)(f"the baseline {name!r} is not there for this generator: {error}") from error
