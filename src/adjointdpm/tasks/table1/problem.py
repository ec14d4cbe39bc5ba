"""The model as Table 1 sees it: a denoiser without guidance, noises and conditions by number, images of samples."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.models import Denoiser
from adjointdpm.pipelines.adapters import DiffusersNetwork, conditioning, network_of
from adjointdpm.pipelines.autoencode import decode
from adjointdpm.pipelines.encode import encode_prompt
from adjointdpm.pipelines.noise import draw_noise
from adjointdpm.pipelines.tensors import network_dtype
from adjointdpm.schedules import from_scheduler_config
from adjointdpm.tasks.table1.config import Table1Config

__all__ = ["Problem"]

CLIPPING = ("clip_sample", "thresholding")
ENCODED_AT_ONCE = 256


class Problem:
    """A pipeline, bound to the prompts of a run.

    Args:
        pipe: diffusers pipeline: text-conditioned (Stable Diffusion, the embedded model) or unconditional (DDPM).
        config: says where the prompts come from and how many noises there are.

    Raises:
        InvalidInput: a denoiser or schedule that the ODE road does not take, a schedule that starts at alpha = 0 (eq.
            11 divides by it), a text-conditioned model without prompts or an unconditional one with some.
    """

    def __init__(self, pipe: Any, config: Table1Config) -> None:
        schedule, prediction = from_scheduler_config(_unclipped(pipe.scheduler))
        if float(schedule.alpha(schedule.t_start)) == 0:
            raise InvalidInput(
                f"{type(pipe.scheduler).__name__} starts at alpha = 0 (zero terminal SNR, or flow), where eq. 11 "
                "divides by 0: Table 1 needs a schedule that starts above it"
            )
        self.pipe, self.seed = pipe, config.seed
        self.device = torch.device(getattr(pipe, "device", "cpu"))
        self.threads = torch.get_num_threads() if self.device.type == "cpu" else 1  # batches solved side by side
        self.network = network_of(pipe)
        self.denoiser = Denoiser(DiffusersNetwork(self.network, {}), schedule, prediction)  # type: ignore[arg-type]
        self.prompts = _prompts(pipe, config)
        self._cond = self._encoded()

    def noise(self, numbers: range) -> Tensor:
        """(B, C, h, w) float64: noise i is that of seed + i, whatever the batch."""
        sources = [torch.Generator().manual_seed(self.seed + i) for i in numbers]
        return draw_noise(self.pipe, len(sources), sources, None, None).double()

    def cond(self, numbers: range) -> Any:
        """The conditioning of these images, or None."""
        if self._cond is None:
            return None
        return {name: rows[numbers.start : numbers.stop] for name, rows in self._cond.items()}

    def images(self, x: Tensor) -> Tensor:
        """Samples x (B, C, h, w) as images (B, 3, H, W), 8 bits, on the CPU.

        The sample at the end time as it is, without a last step to sigma = 0: its remaining noise is in every cell.
        """
        with torch.no_grad():
            decoded = decode(self.pipe, x.to(network_dtype(self.pipe))).float()
        pixels = ((0.5 + 0.5 * decoded).clamp(0, 1) * 255).round().to("cpu", torch.uint8)
        if pixels.shape[1] not in (1, 3):
            raise InvalidInput(f"the model makes images of {pixels.shape[1]} channels; expected 1 or 3")
        return pixels.expand(-1, 3, -1, -1)

    def _encoded(self) -> Any:
        if not self.prompts:
            return None
        parts = []
        with torch.no_grad():
            for start in range(0, len(self.prompts), ENCODED_AT_ONCE):
                encoded = encode_prompt(self.pipe, self.prompts[start : start + ENCODED_AT_ONCE])
                if "pooled_prompt_embeds" in encoded:
                    raise InvalidInput(f"{type(self.pipe).__name__} takes more than one text embedding; not supported")
                parts.append(conditioning(self.pipe, encoded, False, {}))
        names = parts[0] or {}
        return {name: torch.cat([part[name] for part in parts if part is not None]) for name in names}


def _unclipped(scheduler: Any) -> dict[str, Any]:
    """The scheduler's config without the clipping of x_0-hat, which is the sampler's and not the ODE's."""
    settings = {"_class_name": type(scheduler).__name__, **scheduler.config}
    clipping = [name for name in CLIPPING if settings.get(name)]
    if clipping:
        warnings.warn(f"{' and '.join(clipping)} of the scheduler is left out: the ODE is not clipped", InputWarning, 4)
    return settings | dict.fromkeys(CLIPPING, False)


def _prompts(pipe: Any, config: Table1Config) -> list[str]:
    takes_text = hasattr(pipe, "encode_prompt")
    if config.scenes:
        if not takes_text:
            raise InvalidInput(f"{type(pipe).__name__} takes no text: use scenes=False, and real= for its real images")
        from adjointdpm.tasks.table1.real import scene_prompts

        return scene_prompts(config)
    if takes_text and not config.prompts:
        raise InvalidInput(
            f"{type(pipe).__name__} is conditioned on text and Table 1 is without guidance: give prompts"
        )
    if config.prompts and not takes_text:
        raise InvalidInput(f"{type(pipe).__name__} takes no text, so prompts would be ignored: leave them out")
    return [config.prompts[i % len(config.prompts)] for i in range(config.samples)] if config.prompts else []
