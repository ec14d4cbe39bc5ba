"""The class-conditional ImageNet model of guided-diffusion with classifier guidance, and the judge; see README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.tasks.audit.adapters import from_folder
from adjointdpm.tasks.audit.guided import GuidedDenoiser, GuidedPipeline

SIZE, TRAIN_STEPS = 128, 1000


class _Denoiser(nn.Module):
    """(x, t, y) -> ε and the variance's channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        found: Tensor = self.network(x, t, y=y)
        return found


def pipeline(folder: str, scale: float = 1.0) -> GuidedPipeline:
    """The pipeline from the two weight files in `folder`."""
    from diffusers import DDIMScheduler
    from guided_diffusion import script_util  # type: ignore[import-not-found]

    settings: dict[str, Any] = script_util.model_and_diffusion_defaults()
    settings |= {
        "image_size": SIZE, "class_cond": True, "learn_sigma": True, "num_channels": 256, "num_heads": 4,
        "num_res_blocks": 2, "attention_resolutions": "32,16,8", "resblock_updown": True, "use_fp16": False,
        "use_scale_shift_norm": True, "noise_schedule": "linear",
    }  # fmt: skip
    denoiser, _ = script_util.create_model_and_diffusion(**settings)
    guide = script_util.create_classifier(
        **{**script_util.classifier_defaults(), "image_size": SIZE, "classifier_use_fp16": False}
    )
    for network, name in ((denoiser, "diffusion"), (guide, "classifier")):
        state = torch.load(Path(folder) / f"{SIZE}x{SIZE}_{name}.pt", map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    scheduler = DDIMScheduler(TRAIN_STEPS, beta_schedule="linear", clip_sample=False, set_alpha_to_one=False)
    guided = GuidedDenoiser(_Denoiser(denoiser), guide, scheduler.alphas_cumprod, scale, size=SIZE)
    return GuidedPipeline(guided.eval().requires_grad_(False), scheduler)


def judge() -> nn.Module:
    """An independent classifier of ImageNet."""
    return from_folder(Path("imagenet_weights/judge"))
