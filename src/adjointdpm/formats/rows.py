"""Learnt rows put among the rows of a text encoder's output (paper 4.1 and A.1).

A text encoder of the CLIP family returns a fixed number L of rows whatever the prompt says: start token, words, end
token, then rows of padding, to which the denoiser attends as to any other.  Two ways to place m learnt rows:

- "tail": they are the last m rows, the same for every prompt; a prompt that reaches into them loses words there.
- "fill" (A.1): rows of the prompt's own words stay, the learnt rows take what remains, each at its own position.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["Position", "encode_prompts", "lost_words", "place_rows", "row_count", "word_rows"]

Position = Literal["tail", "fill"]


def encode_prompts(pipe: Any, prompts: list[str]) -> Tensor:
    """Rows of the prompts (B, L, D) from the pipeline's own text encoder, without a graph.

    Raises `InvalidInput` for a pipeline that has several text encoders, or none.
    """
    if getattr(pipe, "text_encoder", None) is None or getattr(pipe, "text_encoder_2", None) is not None:
        raise InvalidInput(
            f"{type(pipe).__name__} has no single text encoder; prompt-space embeddings fit pipelines with one, "
            "such as StableDiffusionPipeline"
        )
    with torch.no_grad():
        encoded, _ = pipe.encode_prompt(prompts, pipe.text_encoder.device, 1, False)
    return encoded  # type: ignore[no-any-return]


def word_rows(pipe: Any, prompts: list[str]) -> list[int]:
    """How many leading rows each prompt itself takes: start token, words and end token, at most L."""
    length = row_count(pipe)
    return [min(len(pipe.tokenizer(prompt).input_ids), length) for prompt in prompts]


def lost_words(pipe: Any, prompt: str, m: int) -> str:
    """The words of `prompt` that m rows at the tail replace, or that do not fit at all; "" if none."""
    length = row_count(pipe)
    ids = pipe.tokenizer(prompt).input_ids
    words = ids[:-1] if ids and ids[-1] == pipe.tokenizer.eos_token_id else ids
    return str(pipe.tokenizer.decode(words[max(length - m, 0) :])).strip()


def place_rows(encoded: Tensor, rows: Tensor, position: Position, words: list[int]) -> Tensor:
    """`encoded` (B, L, D) with `rows` (m, D) in its last m places; differentiable in both.

    With "fill", places below `words[b]`, the rows of prompt b's own words, keep what the encoder gave.
    """
    batch, length, width = encoded.shape
    m = rows.shape[0]
    if m > length:
        raise InvalidInput(f"the embedding has {m} rows, this text encoder gives {length}")
    tail = rows.to(encoded.dtype).expand(batch, m, width)
    placed = torch.cat([encoded[:, : length - m], tail], dim=1)
    if position == "tail":
        return placed
    own = torch.tensor(words, device=encoded.device)[:, None, None]  # (B, 1, 1)
    place = torch.arange(length, device=encoded.device)[None, :, None]  # (1, L, 1)
    return torch.where(place < own, encoded, placed)


def row_count(pipe: Any) -> int:
    """L.  A tokenizer saved by transformers 5 may lack it (then it holds a huge number); the encoder knows it."""
    if getattr(pipe, "text_encoder", None) is None or getattr(pipe, "tokenizer", None) is None:
        raise InvalidInput(f"{type(pipe).__name__} has no text encoder of its own, so there are no rows to learn")
    places = getattr(pipe.text_encoder.config, "max_position_embeddings", None)
    if places is None:
        raise InvalidInput(
            f"{type(pipe.text_encoder).__name__} gives as many rows as it is asked for; learnt embeddings fit "
            "text encoders with a fixed number of them, such as CLIP's"
        )
    return int(min(pipe.tokenizer.model_max_length, places))
