"""Textual inversion: the input embedding of a new token, in the file that diffusers, A1111 and ComfyUI read.

One safetensors key, the token itself, holding (n, D) float32; everything else is metadata strings.  In diffusers
`pipe.load_textual_inversion(path)` registers `<token>`, `<token>_1`, … and a prompt that names the token gets all n.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.formats.widths import check_width
from adjointdpm.runs import load_tensors, save_tensors

__all__ = ["TextualInversion"]


@dataclass(frozen=True)
class TextualInversion:
    """`vectors` (n, D) float32 for `token`, such as "<duotone>"; at most 75 vectors fit a CLIP prompt."""

    token: str
    vectors: Tensor
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.token or any(character.isspace() for character in self.token):
            raise InvalidInput(f"the token {self.token!r} must be one word without spaces, such as '<effect>'")
        vectors = self.vectors.detach().to("cpu", torch.float32)
        if vectors.dim() == 1:
            vectors = vectors[None]
        if vectors.dim() != 2 or vectors.shape[0] < 1:
            raise InvalidInput(f"vectors has shape {tuple(self.vectors.shape)}; expected (n, width)")
        if not bool(torch.isfinite(vectors).all()):
            raise InvalidInput("vectors holds NaN or infinite values")
        object.__setattr__(self, "vectors", vectors)

    def save(self, path: Path | str) -> Path:
        metadata = {
            "format": "pt",
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.title": self.token,
            "modelspec.trigger_phrase": self.token,
            "provenance": json.dumps(dict(self.provenance), ensure_ascii=False),
        }
        return save_tensors(path, {self.token: self.vectors}, metadata)

    @classmethod
    def load(cls, path: Path | str, width: int | None = None) -> TextualInversion:
        """Read a file with one tensor; `width` is that of the text encoder it shall serve, if it is to be checked.

        Raises `InvalidInput` naming the file, or both widths.
        """
        tensors, metadata = load_tensors(path)
        if len(tensors) != 1:
            raise InvalidInput(
                f"{path} holds {len(tensors)} tensors ({', '.join(list(tensors)[:4])}); a textual-inversion file of "
                "SD1 or SD2 holds one, named after its token"
            )
        token, vectors = next(iter(tensors.items()))
        if width is not None:
            check_width(vectors.shape[-1], width)
        if token == "emb_params":  # the key of kohya and A1111 files: the token is the file's name
            token = Path(path).stem
        return cls(token, vectors, json.loads(metadata.get("provenance", "{}")))
