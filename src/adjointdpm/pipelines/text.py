"""What a prompt loses on its way to the text encoder: words beyond its length, words that its vocabulary lacks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from adjointdpm.errors import InputWarning, InvalidInput

__all__ = ["as_prompts", "token_limit", "warn_of_losses"]


def as_prompts(name: str, prompt: Any) -> list[str]:
    """A prompt or list of prompts as a list, checked.

    Raises:
        InvalidInput: empty list, an entry that is no string or cannot be encoded.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(p, str) for p in prompts):
        kinds = type(prompt).__name__ if not isinstance(prompt, list) else [type(p).__name__ for p in prompt]
        raise InvalidInput(f"{name} must be a string or a list of strings, got {kinds}")
    if not prompts:
        raise InvalidInput(f"{name} is an empty list: give at least one prompt ('' is one)")
    for text in prompts:
        if "\0" in text or any(0xD800 <= ord(character) < 0xE000 for character in text):
            raise InvalidInput(f"{name} holds a NUL or a lone surrogate, which no tokenizer reads: {text!r}")
    return list(prompts)


def token_limit(tokenizer: Any, text_encoder: Any) -> int | None:
    """How many tokens a text encoder of fixed length reads; None where the length is chosen elsewhere (T5)."""
    limit = getattr(getattr(text_encoder, "config", None), "max_position_embeddings", None)
    if "clip" not in str(getattr(getattr(text_encoder, "config", None), "model_type", "")) or limit is None:
        return None
    return min(int(limit), int(getattr(tokenizer, "model_max_length", limit)))


def warn_of_losses(pipe: Any, name: str, prompts: Sequence[str]) -> None:
    """One InputWarning a prompt for the words that are cut, one for those outside the vocabulary."""
    for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipe, part, None)
        if not callable(tokenizer):
            continue
        limit = token_limit(tokenizer, getattr(pipe, part.replace("tokenizer", "text_encoder"), None))
        for text in dict.fromkeys(prompts):
            cut = _cut_words(tokenizer, text, limit)
            if cut:
                _warn(f"{name} {text!r} is longer than the {limit} tokens that {part} reads; cut: {cut!r}")
            unknown = _unknown_words(tokenizer, text)
            if unknown:
                _warn(f"{name} {text!r} has words outside the vocabulary of {part}: {', '.join(map(repr, unknown))}")
        if limit is None:
            break  # joint encoders read the same prompt with other lengths; the pipeline reports those itself


def _warn(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=6)


def _cut_words(tokenizer: Any, text: str, limit: int | None) -> str:
    if limit is None:
        return ""
    ids = tokenizer(text, truncation=False, verbose=False).input_ids
    if len(ids) <= limit:
        return ""
    ending = tokenizer(text, truncation=True, max_length=limit).input_ids
    kept = next((i for i, (full, short) in enumerate(zip(ids, ending, strict=False)) if full != short), limit)
    if getattr(tokenizer, "is_fast", False):  # the user's own characters, unknown words too
        begins = tokenizer(text, truncation=False, verbose=False, return_offsets_mapping=True).offset_mapping[kept][0]
        return text[begins:].strip()
    tail = tokenizer.decode(ids[kept:], skip_special_tokens=True)
    return str(tail).strip()


def _unknown_words(tokenizer: Any, text: str) -> list[str]:
    unknown = getattr(tokenizer, "unk_token_id", None)
    # CLIP's unknown token is its end token: it breaks every word into known pieces and has no unknown ones.
    others = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    if unknown is None or unknown in others:
        return []
    words = [word.strip('.,;:!?"()') for word in text.split()]
    return [
        word for word in dict.fromkeys(words) if word and unknown in tokenizer(word, add_special_tokens=False).input_ids
    ]
