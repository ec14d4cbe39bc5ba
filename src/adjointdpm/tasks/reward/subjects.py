"""What a reward may change: the noise of each image, an embedding, or the weights.

Each subject has `parameters` by name, makes the embeddings and latents of a list of images with a graph to them, and
writes what was learnt in a form that plain diffusers reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from adjointdpm.losses.typicality import concentration_penalty, norm_penalty
from adjointdpm.runs import save_tensors
from adjointdpm.tasks.inversion.spaces import PromptSpace, Space
from adjointdpm.tasks.inversion.token_space import TokenSpace
from adjointdpm.tasks.painter import Painter
from adjointdpm.tasks.reward.config import Item, RewardConfig
from adjointdpm.tasks.weights import Trained

__all__ = ["EMBEDDING_FILE", "NOISE_FILE", "Subject", "subject_of"]

EMBEDDING_FILE, NOISE_FILE = "embedding.safetensors", "noise.safetensors"
Drawn = tuple[Tensor, Tensor, Tensor]  # rows (B, L, D) of the prompts and the negative prompt, latents (B, C, h, w)


class Subject(Protocol):
    """What is optimised."""

    @property
    def parameters(self) -> Mapping[str, Tensor]: ...

    def draw(self, items: Sequence[Item]) -> Drawn:
        """What the painter needs for these images, with a graph to `parameters`."""

    def before(self, items: Sequence[Item]) -> Drawn:
        """The same as it was before anything was learnt; call it inside `untouched`."""

    def untouched(self) -> AbstractContextManager[None]:
        """Context within which the model is the one before."""

    def penalty(self, items: Sequence[Item], step: int) -> Tensor | None:
        """What each image (B,) adds to the loss, weighted, or None."""

    def export(self, folder: Path, provenance: Mapping[str, Any]) -> list[Path]:
        """Write what was learnt; returns the files."""


class _Plain:
    """Prompts and seeds as they are."""

    def __init__(self, painter: Painter) -> None:
        self.painter = painter

    def before(self, items: Sequence[Item]) -> Drawn:
        embeds, negative = self.painter.encode([item.prompt for item in items])
        return embeds, negative, self.painter.noise([item.seed for item in items])

    @contextmanager
    def untouched(self) -> Iterator[None]:
        yield

    def penalty(self, items: Sequence[Item], step: int) -> Tensor | None:
        return None


class Noise(_Plain):
    """x_T of each pair, one parameter (N, C, h, w), starting at the noises of the seeds."""

    wrt = ("x_T",)

    def __init__(self, painter: Painter, config: RewardConfig) -> None:
        super().__init__(painter)
        self.config = config
        start = painter.noise([seed for _, seed in config.pairs])
        dtype = torch.promote_types(torch.float32, painter.generator.pipe.dtype)
        self.parameter = nn.Parameter(start.to(painter.generator.pipe.device, dtype))
        self.parameters: Mapping[str, Tensor] = {"noise": self.parameter}
        self._texts: dict[str, tuple[Tensor, Tensor]] = {}

    def draw(self, items: Sequence[Item]) -> Drawn:
        for item in items:
            if item.prompt not in self._texts:
                embeds, negative = self.painter.encode([item.prompt])
                self._texts[item.prompt] = (embeds, negative)
        embeds, negative = (torch.cat(rows) for rows in zip(*(self._texts[i.prompt] for i in items), strict=True))
        return embeds, negative, self.parameter[[item.place for item in items]]

    def penalty(self, items: Sequence[Item], step: int) -> Tensor | None:
        if self.config.penalty == 0:
            return None
        noise = self.parameter[[item.place for item in items]]
        if self.config.typicality == "norm":
            return self.config.penalty * norm_penalty(noise)
        return self.config.penalty * concentration_penalty(noise, seed=step)

    def export(self, folder: Path, provenance: Mapping[str, Any]) -> list[Path]:
        """One file for each pair, as `adjointdpm generate --noise` takes it."""
        files = []
        settings = self.painter.generator.settings
        made = {"solver": settings.solver, "spacing": settings.spacing}
        for place, (prompt, seed) in enumerate(self.config.pairs):
            name = NOISE_FILE if len(self.config.pairs) == 1 else f"noise-{place:04d}.safetensors"
            facts = {"format": "pt", "prompt": prompt, "seed": seed, "steps": self.config.steps, **made}
            facts["guidance"] = self.config.guidance_scale
            texts = {key: str(value) for key, value in facts.items() if value is not None}
            files.append(save_tensors(folder / name, {"latents": self.parameter[place : place + 1]}, texts))
        return files


class Embedding(_Plain):
    """Rows behind the text encoder, or input vectors of a new token, as the inversion learns them."""

    wrt = ("cond",)

    def __init__(self, painter: Painter, config: RewardConfig) -> None:
        super().__init__(painter)
        painter.check_changed_rows(config.prompts[0])
        self.space: Space = PromptSpace(painter, config) if config.space == "prompt" else TokenSpace(painter, config)
        self.parameters: Mapping[str, Tensor] = {"embedding": self.space.parameter}

    def draw(self, items: Sequence[Item]) -> Drawn:
        _, negative, latents = self.before(items)
        return self.space.encode([item.prompt for item in items]), negative, latents

    def export(self, folder: Path, provenance: Mapping[str, Any]) -> list[Path]:
        return [self.space.embedding(provenance).save(folder / EMBEDDING_FILE)]


class Weights(_Plain):
    """A LoRA, the cross-attention or all weights of the denoiser."""

    wrt = ()  # whatever requires grad, which `Trained` decides

    def __init__(self, painter: Painter, trained: Trained) -> None:
        super().__init__(painter)
        self.trained = trained
        self.parameters: Mapping[str, Tensor] = trained.parameters

    def draw(self, items: Sequence[Item]) -> Drawn:
        return self.before(items)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        with self.trained.disabled():
            yield

    def export(self, folder: Path, provenance: Mapping[str, Any]) -> list[Path]:
        return self.trained.export(folder)


@contextmanager
def subject_of(generator: Any, config: RewardConfig) -> Iterator[tuple[Subject, Painter]]:
    """What `config.optimise` says, with the painter that draws it; at the end the pipeline is as it was."""
    if config.optimise == "weights":
        trained = Trained(generator.pipe, config.train, config.rank, config.alpha, config.init_seed)
        trained.check_precision(config.mixed_precision)
        with trained:
            painter = Painter(generator, config)
            yield Weights(painter, trained), painter
        return
    kind = Noise if config.optimise == "noise" else Embedding
    painter = Painter(generator, config, wrt=kind.wrt)
    yield kind(painter, config), painter
