"""A prompt-space embedding as a file, and its use in plain diffusers.

The file is safetensors with one tensor, `rows` (m, D) float32, and metadata strings: `format`
("adjointdpm.prompt_embedding"), `version` ("1"), `position` ("tail" or "fill", see `formats.rows`), `encoder_length`
(L), and `provenance`, a JSON object: hashes of the base model, training prompts, effect, settings, library version.

    embedding = adjointdpm.formats.PromptEmbedding.load("duotone.safetensors")
    image = pipe(prompt_embeds=embedding.apply(pipe, "a red apple"), negative_prompt="").images[0]
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.formats.fingerprint import fingerprint
from adjointdpm.formats.rows import Position, encode_prompts, lost_words, place_rows, word_rows
from adjointdpm.formats.widths import check_width
from adjointdpm.runs import load_tensors, save_tensors

__all__ = ["PromptEmbedding", "apply"]

FORMAT = "adjointdpm.prompt_embedding"


@dataclass(frozen=True)
class PromptEmbedding:
    """`rows` (m, D) float32 on the CPU, placed as `position` says in an encoder output of `encoder_length` rows."""

    rows: Tensor
    position: Position
    encoder_length: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows.dim() != 2 or not 1 <= self.rows.shape[0] <= self.encoder_length:
            raise InvalidInput(
                f"rows has shape {tuple(self.rows.shape)}; expected (m, width) with 1 <= m <= {self.encoder_length}"
            )
        if not bool(torch.isfinite(self.rows).all()):
            raise InvalidInput("rows holds NaN or infinite values")
        if self.position not in ("tail", "fill"):
            raise InvalidInput(f"position is {self.position!r}; expected 'tail' or 'fill'")
        object.__setattr__(self, "rows", self.rows.detach().to("cpu", torch.float32))

    def save(self, path: Path | str) -> Path:
        metadata = {
            "format": FORMAT,
            "version": "1",
            "position": self.position,
            "encoder_length": str(self.encoder_length),
            "provenance": json.dumps(dict(self.provenance), ensure_ascii=False),
        }
        return save_tensors(path, {"rows": self.rows}, metadata)

    @classmethod
    def load(cls, path: Path | str) -> PromptEmbedding:
        """Raises `InvalidInput` naming the file if it is missing, pickled, damaged or of another kind."""
        tensors, metadata = load_tensors(path)
        if metadata.get("format") != FORMAT or list(tensors) != ["rows"]:
            raise InvalidInput(
                f"{path} is no prompt-space embedding (tensors: {', '.join(list(tensors)[:4])}; expected 'rows' and "
                f"the format {FORMAT!r}). A textual-inversion file goes to pipe.load_textual_inversion."
            )
        if metadata.get("version") != "1":
            raise InvalidInput(f"{path} has version {metadata.get('version')!r}; this library reads version 1")
        position: Any = metadata["position"]
        provenance = json.loads(metadata.get("provenance", "{}"))
        return cls(tensors["rows"], position, int(metadata["encoder_length"]), provenance)

    def apply(self, pipe: Any, prompt: str | list[str]) -> Tensor:
        """`prompt_embeds` (B, L, D) for `prompt` with this embedding, in the text encoder's dtype and device.

        `pipe` is a diffusers pipeline with one text encoder, or a generator made from it.  Warns (`InputWarning`)
        naming words of a long prompt that the rows replace, and if the embedding was learnt on another model.
        """
        pipe = getattr(pipe, "pipe", pipe)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        encoded = encode_prompts(pipe, prompts)
        _, length, width = encoded.shape
        check_width(self.rows.shape[1], width)
        if length != self.encoder_length:
            raise InvalidInput(
                f"the embedding belongs to an encoder of {self.encoder_length} rows; this one has {length}"
            )
        base = self.provenance.get("base_model", {})
        if base and base != fingerprint(pipe):
            warnings.warn("the embedding was learnt on another model; its effect may differ", InputWarning, 2)
        if self.position == "tail":
            for text in prompts:
                lost = lost_words(pipe, text, self.rows.shape[0])
                if lost:
                    warnings.warn(
                        f"the prompt {text!r} loses the words {lost!r} to the embedding's {self.rows.shape[0]} rows: "
                        "shorten it, or learn the embedding with fewer rows",
                        InputWarning,
                        2,
                    )
        return place_rows(encoded, self.rows.to(encoded.device), self.position, word_rows(pipe, prompts))


def apply(embedding: PromptEmbedding | Path | str, pipe: Any, prompt: str | list[str]) -> Tensor:
    """`PromptEmbedding.apply`, for an embedding or the path of its file."""
    if not isinstance(embedding, PromptEmbedding):
        embedding = PromptEmbedding.load(embedding)
    return embedding.apply(pipe, prompt)
