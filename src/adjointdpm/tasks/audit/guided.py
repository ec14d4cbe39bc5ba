"""Class-conditional pixel-space models with classifier guidance, as in the paper's ImageNet experiment (A.3).

`GuidedDenoiser` makes one network of a class-conditional denoiser and a classifier of noisy images,
ε̂(x, t, y) = ε(x, t, y) − s σ_t ∇_x log p(y | x_t) (Dhariwal and Nichol 2021).  The inner gradient is part of the
network, so the exact gradient through the sampler contains its second derivative.  `GuidedPipeline` is a plain DDIM
loop around it.  The two networks are the user's: any modules of `(x, t, y) -> ε` (further channels are left out) and
`(x, t) -> logits`.  `examples/audit_imagenet` has the configuration of the paper's own networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor, nn

__all__ = ["GuidedDenoiser", "GuidedPipeline"]


class _Config:
    def __init__(self, in_channels: int, sample_size: int) -> None:
        self.in_channels, self.sample_size = in_channels, sample_size


class GuidedDenoiser(nn.Module):
    """ε̂ of images (B, C, H, W) at training steps t (B,) for classes y (B,).

    Args:
        denoiser: (x, t, y) -> (B, C or more, H, W), the first C channels are ε.
        guide: (x, t) -> logits (B, K) of noisy images; None: no guidance.
        alphas_cumprod: (T,) of the schedule.
        scale: s.
        channels, size: of the images.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        guide: nn.Module | None,
        alphas_cumprod: Tensor,
        scale: float = 1.0,
        channels: int = 3,
        size: int = 128,
    ) -> None:
        super().__init__()
        self.denoiser, self.guide, self.scale = denoiser, guide, scale
        self.register_buffer("alphas_cumprod", alphas_cumprod.clone(), persistent=False)
        self.config = _Config(channels, size)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        eps: Tensor = self.denoiser(x, t, y)[:, : x.shape[1]]
        if self.guide is None or self.scale == 0:
            return eps
        differentiable = torch.is_grad_enabled()  # of the outer gradient, which needs the second derivative
        with torch.enable_grad():
            at = x.clone() if differentiable and x.requires_grad else x.detach().requires_grad_()
            chosen = self.guide(at, t).log_softmax(dim=1).gather(1, y[:, None]).sum()
            (pull,) = torch.autograd.grad(chosen, at, create_graph=differentiable and x.requires_grad)
        sigma = (1 - self.get_buffer("alphas_cumprod")[t]).sqrt().reshape(-1, 1, 1, 1)
        return eps - self.scale * sigma.to(x.dtype) * pull


class GuidedPipeline(DiffusionPipeline):  # type: ignore[misc]
    """DDIM with a `GuidedDenoiser`; `class_labels` are class numbers."""

    def __init__(self, unet: GuidedDenoiser, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def __call__(
        self,
        class_labels: Sequence[int] | Tensor,
        latents: Tensor | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 1.0,
        output_type: str = "pt",
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Images (B, C, H, W) in [0, 1]; `guidance_scale` multiplies the guidance of the network."""
        labels = torch.as_tensor(class_labels, device=self._execution_device, dtype=torch.long)
        config = self.unet.config
        x = latents
        if x is None:
            x = torch.randn(len(labels), config.in_channels, config.sample_size, config.sample_size)
            x = x.to(self._execution_device, self.unet.dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        for t in self.scheduler.timesteps:
            eps = self.unet(x, t.expand(len(x)), labels)
            x = self.scheduler.step(eps, t, x).prev_sample
        return ((x / 2 + 0.5).clamp(0, 1),)
