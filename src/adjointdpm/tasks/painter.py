"""One place that calls the generator for a task: noise by seed, guidance, steps, parts, number format, counts.

Each seed has a random generator of its own, so an image does not depend on the batch, or the process, it is made in.
The noise that a stochastic sampler adds in its steps is the same for every image and at every call (`STEP_SEED`): what
is optimised, compared or audited is x_T, the embedding or the weights, and chance must not pass for their effect.

Some pipelines take more of a prompt than its rows: a pooled embedding, an attention mask.  Tasks handle rows; what
belongs to them is remembered when a prompt is encoded, by the rows' values, and joins them again at the call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.pipelines.encode import encode_prompt
from adjointdpm.pipelines.noise import STEP_SEED
from adjointdpm.pipelines.outcome import Counts
from adjointdpm.pipelines.tensors import network_dtype
from adjointdpm.tasks.images import parts, tensors_of
from adjointdpm.tasks.precision import Precision
from adjointdpm.tasks.settings import TaskConfig

__all__ = ["Painted", "Painter"]

PAIR = ("prompt_embeds", "negative_prompt_embeds")
HALF = (torch.float16, torch.bfloat16)
LIVE = 64  # calls whose backward is waited for; more graphs at once do not fit into memory anyway


@dataclass(frozen=True)
class Painted:
    """Images without a graph: `image` (B, 3, H, W) as the model made it, `shown` the same after the safety checker."""

    image: Tensor
    shown: Tensor


class Painter:
    """Draws images of embeddings (B, L, D) from the noises of seeds or from latents (B, C, h, w); counts the work.

    Args:
        generator: made by `adjointdpm.differentiable(pipe)`.
        config: negative prompt, steps, guidance scale, batch size and number format.
        wrt: what gets a gradient, as in `differentiable`; nothing named: whatever requires grad, as within `Trained`.
    """

    def __init__(self, generator: Any, config: TaskConfig, wrt: Sequence[str] = ()) -> None:
        self.generator = generator.with_(wrt=tuple(wrt) or None)
        self.config = config
        self.precision = Precision(config.mixed_precision, generator.pipe.device, generator.pipe.dtype)
        self.network_calls = 0
        self._counted = {"vjps": 0, "recomputations": 0}
        self._live: list[Counts] = []  # of the latest calls, whose backward may be still to come
        self._negative_taken = True
        self._rows_dtype: torch.dtype | None = None  # of the pipeline's own rows
        self._beside: dict[str, dict[bytes, Tensor]] = {}  # by argument of the call: what belongs to a prompt's rows

    def twin(self, generator: Any, wrt: Sequence[str] = (), **changes: Any) -> Painter:
        """A painter of the same prompts by another generator, with `changes` in the settings and its own counts."""
        other = type(self)(generator, self.config.model_copy(update=changes), wrt)
        other._beside, other._negative_taken = self._beside, self._negative_taken
        other._rows_dtype = self._rows_dtype
        return other

    @property
    def vjps(self) -> int:
        """Vector-Jacobian products of networks in the backward passes so far."""
        return self._count("vjps")

    @property
    def recomputations(self) -> int:
        """Network calls run again in the backward passes so far; they are not in `network_calls`."""
        return self._count("recomputations")

    def _count(self, what: str) -> int:
        return self._counted[what] + sum(counts[what] for counts in self._live)

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Rows of the prompts and of the negative prompt, (B, L, D) each, without a graph, at least float32: what is
        learnt is not rounded at every step.  The negative rows are zero where the pipeline takes none.
        """
        with torch.no_grad():
            found = encode_prompt(self.generator.pipe, list(prompts), self.config.negative_prompt)
        rows = found["prompt_embeds"].detach()
        negative = found.get("negative_prompt_embeds", torch.zeros_like(rows)).detach()
        for name, value in found.items():
            whose = negative if name.startswith("negative") else rows
            if name not in PAIR and name in self.generator.accepts and isinstance(value, Tensor):
                self._beside.setdefault(name, {}).update(zip(map(_key, whose), value.detach(), strict=True))
        self._negative_taken, self._rows_dtype = "negative_prompt_embeds" in found, rows.dtype
        return tuple(t.float() if t.dtype in HALF else t for t in (rows, negative))  # type: ignore[return-value]

    def conditioning(self, embeds: Tensor, negative: Tensor) -> dict[str, Tensor]:
        """The arguments of the generator's call that say what to paint."""
        found = {"prompt_embeds": embeds.to(self._rows_dtype or embeds.dtype)}
        if self._negative_taken:
            found["negative_prompt_embeds"] = negative.to(self._rows_dtype or negative.dtype)
        for name, known in self._beside.items():
            try:
                rows = [known[_key(row)] for row in (negative if name.startswith("negative") else embeds)]
            except KeyError:
                kind = type(self.generator.pipe).__name__
                raise InvalidInput(
                    f"{kind} takes {name} as well, which is known for the rows of prompts only: embeddings that are "
                    "changed cannot be painted by it"
                ) from None
            found[name] = torch.stack(rows)
        return found

    def check_changed_rows(self, prompt: str) -> None:
        """Raise `InvalidInput` for a pipeline that cannot paint rows other than those of prompts."""
        rows, negative = self.encode([prompt])
        self.conditioning(rows + 1, negative)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """x_T of each seed, (B, C, h, w), float32, of unit variance."""
        return torch.cat([self.generator.prepare_latents(1, seed) for seed in seeds])

    def generate(self, embeds: Tensor, negative: Tensor, latents: Tensor | Sequence[int]) -> Any:
        """The generator's result, with a graph to what `wrt` says; `latents` may also be seeds."""
        noise = latents if isinstance(latents, Tensor) else self.noise(latents)
        seed = {"seed": [STEP_SEED] * len(noise)} if "generator" in self.generator.accepts else {}
        with self.precision.autocast(), _same_chance(noise.device):
            out = self.generator(
                **self.conditioning(embeds, negative),
                **seed,
                latents=noise.to(embeds.device, network_dtype(self.generator.pipe)),
                num_inference_steps=self.config.steps,
                guidance_scale=self.config.guidance_scale,
            )
        if out.image.dtype in HALF or self.precision.mode != "no":  # what is computed of images is computed in full
            out.image, out.image_unclamped = out.image.float(), out.image_unclamped.float()
        self.network_calls += out.stats.nfe
        if torch.is_grad_enabled():
            self._live.append(out.stats.counts)
        while len(self._live) > LIVE:
            oldest = self._live.pop(0)
            self._counted = {what: count + oldest[what] for what, count in self._counted.items()}
        return out

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()` with the loss scale of mixed precision; `optimise(..., precision=...)` takes it out."""
        self.precision.backward(loss)

    def paint(self, embeds: Tensor, negative: Tensor, latents: Tensor | Sequence[int]) -> Painted:
        """Images of seeds or latents without a graph, `batch_size` at a time."""
        images, shown = [], []
        with torch.no_grad():
            for part in parts(len(latents), self.config.batch_size):
                chosen = list(part)
                start = latents[chosen] if isinstance(latents, Tensor) else [latents[i] for i in chosen]
                out = self.generate(embeds[chosen], negative[chosen], start)
                images.append(out.image.detach().float().cpu())
                shown.append(tensors_of(out.pil()))
        return Painted(torch.cat(images), torch.cat(shown))


@contextmanager
def _same_chance(device: torch.device) -> Iterator[None]:
    """The global random state of `STEP_SEED` within the block, for samplers that do not ask the generator given."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(STEP_SEED)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(STEP_SEED)
        yield


def _key(row: Tensor) -> bytes:
    """The values of a prompt's rows, shortened."""
    values = row.detach().to("cpu", torch.float32).contiguous().numpy()
    return hashlib.sha256(values.tobytes()).digest()
