"""Token space: the input embedding of a new token, differentiated through the text encoder.

The user's tokenizer and text encoder stay as they are.  A copy of the tokenizer knows the new token; its ids, which
the encoder's table lacks, are looked up as id 0, and a hook on the table's output puts the learnt vectors in their
places for the duration of one call.  The same prompt with the exported file in plain diffusers gives the same rows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput
from adjointdpm.formats import TextualInversion
from adjointdpm.formats.rows import row_count
from adjointdpm.tasks.inversion.spaces import EmbeddingSettings
from adjointdpm.tasks.painter import Painter

__all__ = ["TokenSpace"]


class TokenSpace:
    """`parameter` (n, D): the vectors of the new token, which is put behind each prompt unless the prompt names it."""

    def __init__(self, painter: Painter, config: EmbeddingSettings) -> None:
        pipe = painter.generator.pipe
        if getattr(pipe, "text_encoder_2", None) is not None or getattr(pipe, "text_encoder", None) is None:
            raise InvalidInput(
                f"token space needs a pipeline with one text encoder; {type(pipe).__name__} has several or none"
            )
        self.encoder, self.token, self.count = pipe.text_encoder, config.token, config.vectors
        table = self.encoder.get_input_embeddings()
        self.known = int(table.weight.shape[0])
        self.tokenizer = copy.deepcopy(pipe.tokenizer)
        self.names = [config.token, *(f"{config.token}_{i}" for i in range(1, config.vectors))]
        taken = [name for name in self.names if name in self.tokenizer.get_vocab()]
        if taken:
            raise InvalidInput(f"the token {taken[0]!r} is already in the tokenizer's vocabulary; choose another name")
        self.length = row_count(pipe)
        start = self._start(config.init_word, table.weight.detach())
        self.tokenizer.add_tokens(self.names)
        wide = torch.promote_types(start.dtype, torch.float32)
        self.parameter = nn.Parameter(start.to(wide).expand(config.vectors, -1).clone())
        for prompt in config.prompts:
            self.ids(prompt)

    def _start(self, word: str | None, table: Tensor) -> Tensor:
        if word is None:
            return table.mean(dim=0)
        ids = self.tokenizer(word, add_special_tokens=False).input_ids
        if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
            raise InvalidInput(
                f"init_word {word!r} is {len(ids)} tokens or unknown; give one word that is one known token"
            )
        return table[ids[0]]

    def prompt_with_token(self, prompt: str) -> str:
        """What the user types in plain diffusers once the file is loaded."""
        # anywhere in the text, as the tokenizer finds it
        return prompt if self.token in prompt else f"{prompt} {self.token}".strip()

    def ids(self, prompt: str) -> Tensor:
        """Token ids (L,) of a prompt with all vectors of the token in it; raises if they do not fit."""
        text = self.prompt_with_token(prompt).replace(self.token, " ".join(self.names))
        coded = self.tokenizer(text, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt")
        ids: Tensor = coded.input_ids[0]
        if int((ids >= self.known).sum()) < self.count:
            raise InvalidInput(
                f"the prompt {prompt!r} is too long: with {self.count} vectors of {self.token} it exceeds the text "
                f"encoder's {self.length} tokens; shorten it"
            )
        return ids

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows (B, L, D) with a graph to `parameter` through the text encoder."""
        ids = torch.stack([self.ids(prompt) for prompt in prompts]).to(self.encoder.device)
        places = ids >= self.known  # (B, L); each row holds the n vectors in order
        which = (ids - self.known).clamp_min(0)

        def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            learnt = self.parameter.to(output.dtype)[which]  # (B, L, D)
            return torch.where(places[..., None], learnt, output)

        handle = self.encoder.get_input_embeddings().register_forward_hook(replace)
        try:
            mask = self._mask(prompts)
            encoded: Tensor = self.encoder(ids.masked_fill(places, 0), attention_mask=mask)[0]
        finally:
            handle.remove()
        return encoded

    def _mask(self, prompts: Sequence[str]) -> Tensor | None:
        """As the pipeline: an attention mask only for encoders that ask for one."""
        if not getattr(self.encoder.config, "use_attention_mask", False):
            return None
        texts = [self.prompt_with_token(prompt).replace(self.token, " ".join(self.names)) for prompt in prompts]
        coded = self.tokenizer(
            texts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        return coded.attention_mask.to(self.encoder.device)  # type: ignore[no-any-return]

    def embedding(self, provenance: Mapping[str, Any]) -> TextualInversion:
        return TextualInversion(self.token, self.parameter, provenance)
