"""Seeds: each image has a generator of its own, so that it does not depend on the batch it is made in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.pipelines.components import denoisers_of
from adjointdpm.pipelines.inputs import latent_shape
from adjointdpm.pipelines.tensors import network_dtype

__all__ = ["STEP_SEED", "draw_latents", "draw_noise", "generators", "image_seeds"]

# Of the noise that a stochastic sampler adds in its steps where x_T is given.  Not 0 or another number that x_T itself
# is likely to be drawn with: the first step would then add x_T once more.
STEP_SEED = 0x5EED0000


def image_seeds(seed: int | Sequence[int], batch: int) -> list[int]:
    """The seed of each image: seed + i for a whole number, or the given ones.

    Raises:
        InvalidInput: no whole number of 64 bits, or another count of seeds than of images.
    """
    seeds = [seed + i for i in range(batch)] if isinstance(seed, int) and not isinstance(seed, bool) else seed
    if not isinstance(seeds, Sequence) or not all(isinstance(s, int) and 0 <= s < 2**64 for s in seeds):
        raise InvalidInput(f"seed={seed!r}: expected a whole number of at least 0, or one for each image")
    if len(seeds) != batch or batch < 1:
        raise InvalidInput(f"{len(seeds)} seeds for {batch} image(s): expected one number, or one for each image")
    return list(seeds)


def generators(pipe: Any, function: Callable[..., Any], seeds: list[int]) -> Any:
    """One CPU generator for each seed, as the pipeline takes them."""
    if "generator" not in inspect.signature(function).parameters:
        raise InvalidInput(f"{type(pipe).__name__} takes no generator, so it cannot be seeded; pass latents")
    made = [torch.Generator().manual_seed(s) for s in seeds]
    return made[0] if len(made) == 1 else made


def draw_latents(pipe: Any, seeds: list[int], height: int | None, width: int | None) -> torch.Tensor:
    """The noise that a call with these seeds draws, before `init_noise_sigma`: (B, C, h, w), float32.

    Raises:
        InvalidInput: a pipeline whose noise has another layout (video, several stages).
    """
    return draw_noise(pipe, len(seeds), [torch.Generator().manual_seed(s) for s in seeds], height, width).float()


def draw_noise(
    pipe: Any, batch: int, source: torch.Generator | list[torch.Generator] | None, height: int | None, width: int | None
) -> torch.Tensor:
    """(B, C, h, w) noise in the denoiser's number format, drawn as the pipeline draws it."""
    from diffusers.utils.torch_utils import randn_tensor

    dtype, device = network_dtype(pipe), pipe._execution_device
    shape = latent_shape(pipe, batch, height, width)
    if shape is not None:
        noise: torch.Tensor = randn_tensor(shape, generator=source, device=device, dtype=dtype)
        return noise
    if not (hasattr(pipe, "_pack_latents") and hasattr(pipe, "default_sample_size")):
        raise InvalidInput(
            f"the noise of {type(pipe).__name__} has a layout of its own: pass seed= to the call instead"
        )
    side = pipe.default_sample_size * pipe.vae_scale_factor
    config: Any = next(iter(denoisers_of(pipe).values())).config
    channels = config.in_channels // 4  # 2 × 2 patches are packed into channels
    packed = pipe.prepare_latents(batch, channels, height or side, width or side, dtype, device, source)
    return packed[0] if isinstance(packed, tuple) else packed  # type: ignore[no-any-return]
