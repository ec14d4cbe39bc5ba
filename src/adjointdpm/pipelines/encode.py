"""Text embeddings by the pipeline's own `encode_prompt`, named as the arguments of its call."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from typing import Any

import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.pipelines.private import Taps, private_copy
from adjointdpm.pipelines.text import as_prompts, warn_of_losses

__all__ = ["encode_prompt"]


def encode_prompt(
    pipe: Any,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None = None,
    *,
    warn: bool = True,
    **more: Any,
) -> dict[str, torch.Tensor]:
    """Everything that the pipeline's `encode_prompt` returns, by name (`prompt_embeds`, `pooled_prompt_embeds`, …).

    Args:
        pipe: the pipeline.
        prompt, negative_prompt: texts; the negative ones are "" by default.
        warn: whether words that are cut or unknown are reported.
        more: further arguments of `encode_prompt`, such as `clip_skip`.

    Raises:
        InvalidInput: the pipeline has no such method; a bad prompt.
    """
    if not hasattr(pipe, "encode_prompt"):
        raise InvalidInput(f"{type(pipe).__name__} has no encode_prompt: it is not conditioned on text")
    prompts = as_prompts("prompt", prompt)
    negative = [""] * len(prompts) if negative_prompt is None else as_prompts("negative_prompt", negative_prompt)
    if len(negative) == 1:
        negative = negative * len(prompts)
    if len(negative) != len(prompts):
        raise InvalidInput(f"{len(negative)} negative prompts for {len(prompts)} prompts")
    if warn:
        warn_of_losses(pipe, "prompt", prompts)
        warn_of_losses(pipe, "negative_prompt", negative)
    twin = private_copy(pipe, Taps())
    accepted = inspect.signature(twin.encode_prompt).parameters
    offered = {
        "prompt": prompts,
        "prompt_2": None,
        "prompt_3": None,
        "negative_prompt": negative,
        "device": pipe._execution_device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": True,
        **more,
    }
    found = twin.encode_prompt(**{name: value for name, value in offered.items() if name in accepted})
    found = found if isinstance(found, tuple) else (found,)
    return dict(zip(_returned_names(type(pipe).encode_prompt), found, strict=False))


def _returned_names(function: Any) -> tuple[str, ...]:
    """The names in the last `return` of a function: pipelines return two to four embeddings in differing order."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    returns = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    last = returns[-1]
    parts = last.elts if isinstance(last, ast.Tuple) else [last]
    return tuple(part.id if isinstance(part, ast.Name) else f"output_{i}" for i, part in enumerate(parts))
