"""Where the embedding lives: rows behind the text encoder, or the input of the text encoder.

Both give `encode(prompts)`: the text rows of prompts combined with the embedding, with a graph to `parameter`, and
`export(path, values, provenance)`, the file of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.formats import PromptEmbedding, TextualInversion, lost_words, place_rows, word_rows
from adjointdpm.formats.rows import Position
from adjointdpm.tasks.painter import Painter

__all__ = ["EmbeddingSettings", "PromptSpace", "Space"]


class EmbeddingSettings(Protocol):
    """What a space reads of a task's configuration; the fields are those of `InvertConfig`."""

    @property
    def prompts(self) -> tuple[str, ...]: ...
    @property
    def unseen_prompts(self) -> tuple[str, ...] | None: ...
    @property
    def variant(self) -> Position: ...
    @property
    def rows(self) -> int | None: ...
    @property
    def token(self) -> str: ...
    @property
    def vectors(self) -> int: ...
    @property
    def init_word(self) -> str | None: ...


class Space(Protocol):
    """The optimised embedding and how it joins a prompt."""

    parameter: nn.Parameter

    def encode(self, prompts: Sequence[str]) -> Tensor: ...

    def embedding(self, provenance: Mapping[str, Any]) -> PromptEmbedding | TextualInversion: ...


class PromptSpace:
    """`parameter` (m, D) among the rows of the text encoder's output, placed as `formats.rows` says.

    It starts at the mean, over the training prompts, of the rows that it replaces: a value that the denoiser has seen.
    """

    def __init__(self, painter: Painter, config: EmbeddingSettings) -> None:
        self.pipe = painter.generator.pipe
        self.painter = painter
        self.position = config.variant
        prompts = list(dict.fromkeys(config.prompts))
        encoded, _ = painter.encode(prompts)
        self.length = encoded.shape[1]
        own = min(word_rows(self.pipe, prompts))
        m = config.rows or (8 if self.position == "tail" else self.length - own)
        if not 1 <= m < self.length:
            raise InvalidInput(
                f"{m} learnt rows do not fit: the text encoder gives {self.length} rows, and at least one must stay"
                if config.rows
                else f"the base prompts take all {self.length} rows of the text encoder: shorten them"
            )
        if self.position == "tail":
            for prompt in (*prompts, *(config.unseen_prompts or ())):
                lost = lost_words(self.pipe, prompt, m)
                if lost:
                    warnings.warn(f"the prompt {prompt!r} loses {lost!r} to the {m} learnt rows", InputWarning, 4)
        start = encoded[:, -m:].mean(dim=0)
        self.parameter = nn.Parameter(start.to(torch.promote_types(start.dtype, torch.float32), copy=True))
        self._known: dict[str, Tensor] = dict(zip(prompts, encoded, strict=True))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            self._known |= dict(zip(new, self.painter.encode(new)[0], strict=True))
        encoded = torch.stack([self._known[prompt] for prompt in prompts])
        return place_rows(encoded, self.parameter, self.position, word_rows(self.pipe, list(prompts)))

    def embedding(self, provenance: Mapping[str, Any]) -> PromptEmbedding:
        return PromptEmbedding(self.parameter, self.position, self.length, provenance)
