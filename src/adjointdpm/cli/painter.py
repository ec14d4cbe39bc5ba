"""Prompts -> pictures, with or without a learnt embedding; the part of `generate` that knows the library.

An embedding file is recognised by what is in it: rows for the text encoder's output (`invert --space prompt`) are put
into each prompt's embedding, vectors of a new token (`--space token`, or anybody's textual inversion) are
registered with the tokenizer, and a prompt then uses the token by its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.errors import InputWarning

if TYPE_CHECKING:
    from adjointdpm.formats import PromptEmbedding

__all__ = ["Painter"]


class Painter:
    """A generator with fixed settings.

    Args:
        pipe: diffusers pipeline, as `load_pipeline` returns it; a token's vectors are added to its text encoder.
        negative: negative prompt of all images, or None.
        embedding: file of a learnt embedding, or None.
        road: solver, spacing and form; all None for the pipeline's own scheduler.
        call: further arguments of every call (steps, guidance, size).
    """

    def __init__(
        self, pipe: Any, negative: str | None, embedding: Path | None, road: dict[str, str | None], call: dict[str, Any]
    ) -> None:
        import adjointdpm as ad

        self.negative, self.call = negative, {name: value for name, value in call.items() if value is not None}
        self.rows: PromptEmbedding | None = None
        self.token: str | None = None
        if embedding is not None:
            self.rows, self.token = _load_embedding(pipe, embedding)
        self.generator = ad.differentiable(pipe, **{name: value for name, value in road.items() if value is not None})

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
        """The `Generated` of a batch, image b of prompt b and seed b; call under `torch.no_grad()`."""
        texts = list(prompts)
        arguments: dict[str, Any] = {"seed": list(seeds), **self.call}
        negative = None if self.negative is None else [self.negative] * len(texts)
        if self.rows is None:
            self._warn_without_token(texts)
            return self.generator(texts, negative_prompt=negative, **arguments)
        embeds = self.rows.apply(self.generator, texts)
        return self.generator(prompt_embeds=embeds, negative_prompt=negative, **arguments)

    def _warn_without_token(self, prompts: Sequence[str]) -> None:
        for prompt in dict.fromkeys(prompts):
            if self.token is not None and self.token not in prompt:
                warnings.warn(f"the prompt {prompt!r} does not use the token {self.token}", InputWarning, stacklevel=3)


def _load_embedding(pipe: Any, file: Path) -> tuple[PromptEmbedding | None, str | None]:
    """(rows for the prompt's embedding, None) or (None, name of the token that was registered)."""
    from adjointdpm import formats
    from adjointdpm.runs import load_tensors

    tensors, _ = load_tensors(file)
    if "rows" in tensors:
        return formats.PromptEmbedding.load(file), None
    width = pipe.text_encoder.get_input_embeddings().weight.shape[-1]
    learnt = formats.TextualInversion.load(file, width)
    pipe.load_textual_inversion({learnt.token: learnt.vectors}, token=learnt.token)
    pipe.text_encoder.requires_grad_(False)
    return None, learnt.token
