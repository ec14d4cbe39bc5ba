"""Prompts -> pictures, with or without a learnt embedding; the part of `generate` that knows the library.

An embedding file is recognised by what is in it: rows for the text encoder's output (`invert --space prompt`) are put
into each prompt's embedding, vectors of a new token (`--space token`, or anybody's textual inversion) are
registered with the tokenizer, and a prompt then uses the token by its name.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.errors import InputWarning, InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from adjointdpm.formats import PromptEmbedding
    from adjointdpm.pipelines import Generated

__all__ = ["Painter", "Request", "load_noise"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to paint; the fields are the command's options."""

    prompts: tuple[str, ...]
    negative: str | None
    steps: int
    guidance: float
    count: int
    seed: int
    batch: int
    embedding: Path | None
    noise: Path | None
    out: Path
    force: bool
    height: int | None
    width: int | None
    solver: str | None
    spacing: str | None
    form: str | None


class Painter:
    """A generator with the settings of a request.

    Args:
        pipe: diffusers pipeline, as `load_pipeline` returns it; a token's vectors are added to its text encoder.
        request: what to paint.
    """

    def __init__(self, pipe: Any, request: Request) -> None:
        import adjointdpm as ad

        road: dict[str, Any] = {"solver": request.solver, "spacing": request.spacing, "form": request.form}
        call = {
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "height": request.height,
            "width": request.width,
        }
        self.negative = request.negative
        self.call = {name: value for name, value in call.items() if value is not None}
        self.rows: PromptEmbedding | None = None
        self.token: str | None = None
        if request.embedding is not None:
            self.rows, self.token = _load_embedding(pipe, request.embedding)
        self.noise = (
            None if request.noise is None else load_noise(request.noise, request.solver).to(pipe.device, pipe.dtype)
        )
        self.generator = ad.differentiable(pipe, **{name: value for name, value in road.items() if value is not None})
        self.watched = "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters

    def paint(self, prompts: Sequence[str], seeds: Sequence[int], on_step: Callable[[int], None]) -> Generated:
        """Images of a batch, image b of prompt b and seed b; call under `torch.no_grad()`.

        `on_step` is called with the number of steps done, where the pipeline reports them.
        """
        from adjointdpm.pipelines.noise import STEP_SEED
        from adjointdpm.pipelines.text import warn_of_losses

        texts = list(prompts)
        # with x_T given, a seed is that of a stochastic sampler's steps, which tasks number from STEP_SEED
        first = 0 if self.noise is None else STEP_SEED
        arguments: dict[str, Any] = {"seed": [first + seed for seed in seeds], **self.call}
        if self.watched:
            arguments["callback_on_step_end"] = _watching(on_step)
        if self.noise is not None:
            arguments["latents"] = self.noise.expand(len(texts), *self.noise.shape[1:])
        if self.negative is not None:
            arguments["negative_prompt"] = [self.negative] * len(texts)
        if self.rows is not None:
            warn_of_losses(self.generator.pipe, "prompt", texts)
            return self.generator(prompt_embeds=self.rows.apply(self.generator, texts), **arguments)
        self._warn_without_token(texts)
        return self.generator(texts, **arguments)

    def _warn_without_token(self, prompts: Sequence[str]) -> None:
        for prompt in dict.fromkeys(prompts):
            if self.token is not None and self.token not in prompt:
                warnings.warn(f"the prompt {prompt!r} does not use the token {self.token}", InputWarning, stacklevel=3)


def _watching(on_step: Callable[[int], None]) -> Callable[[Any, int, Any, Any], dict[str, Any]]:
    """A pipeline's callback that only counts."""

    def callback(pipe: Any, step: int, time: Any, tensors: Any) -> dict[str, Any]:
        on_step(step + 1)
        return {}

    return callback


def load_noise(file: Path, solver: str | None) -> Tensor:
    """The starting noise (1, C, h, w), or packed (1, L, C), that `invert-image` or `guide` wrote; warns if it was found
    with another solver.

    Raises `InvalidInput` for a file of another kind.
    """
    from adjointdpm.runs import load_tensors

    tensors, made = load_tensors(file)
    noise = tensors.get("latents")
    if noise is None or noise.ndim not in (3, 4) or len(noise) != 1:
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in list(tensors.items())[:4]) or "nothing"
        raise InvalidInput(
            f"{file} holds {found}; expected the tensor 'latents' of shape (1, C, h, w), or packed, (1, L, C)."
        )
    if made.get("solver", solver) != solver:
        belongs = " ".join(
            f"--{name} {made[name]}" for name in ("solver", "spacing", "steps", "guidance") if name in made
        )
        warnings.warn(f"{file} was found with {belongs}: only with these does it give its image", InputWarning, 3)
    return noise


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
