"""One call of a generator as the subject of a check: fixed inputs as leaves, one metric, variants of the generator."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput
from adjointdpm.gradients.adjoint import Adjoint
from adjointdpm.gradients.measure import Measured, gradient_of

__all__ = ["Subject"]


class Subject:
    """The call that is checked.

    Attributes:
        groups: the leaves that are differentiated, by name in `wrt`; "guidance" only where the scale is above 1.
        dtype, device: of the denoiser.
        notes: what the report should say about the run.
        saturated_share: of the last image's values, those that the clamp to [0, 1] cuts off.
    """

    def __init__(
        self, gen: Any, prompt: str | None, guidance: float, loss: Callable[[Tensor], Tensor] | None,
        seed: int, wrt: tuple[str, ...], call: dict[str, Any],
    ) -> None:  # fmt: skip
        self.gen, self.call, self.seed, self.loss = gen, call, seed, loss
        self.guided = guidance > 1
        self.notes: list[str] = []
        self.saturated_share = math.nan
        size = {k: call[k] for k in ("height", "width") if k in call}
        with torch.no_grad():
            embeds, negative = gen.encode_prompt(prompt or "", call.pop("negative_prompt", None))
            latents = gen.prepare_latents(1, seed, **size)
        self.denoiser: nn.Module = getattr(gen.pipe, "unet", None) or gen.pipe.transformer
        self.dtype = next(self.denoiser.parameters()).dtype
        self.device = latents.device
        self.latents = latents.detach().clone()
        self.embeds = embeds.detach().clone()
        self.negative = None if negative is None or not self.guided else negative.detach().clone()
        self.guidance = torch.tensor(float(guidance), dtype=torch.float64, device=self.device)
        self.groups: dict[str, list[Tensor]] = {}
        if "x_T" in wrt:
            self.groups["x_T"] = [self.latents.requires_grad_(True)]
        if "cond" in wrt:
            self.groups["cond"] = [t.requires_grad_(True) for t in (self.embeds, self.negative) if t is not None]
        if "guidance" in wrt and self.guided:
            self.groups["guidance"] = [self.guidance.requires_grad_(True)]
        if "weights" in wrt:
            self.groups["weights"] = [p for p in self.denoiser.parameters() if p.is_floating_point()]
        if not self.groups:
            raise InvalidInput(f"nothing to differentiate: wrt={wrt}, guidance_scale={guidance} (it must be above 1)")
        self.wrt = tuple(self.groups)

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """The denoiser's weights require grad as asked while the check runs, and as before afterwards."""
        before = [(p, p.requires_grad) for p in self.denoiser.parameters()]
        try:
            for p, _ in before:
                p.requires_grad_("weights" in self.groups and p.is_floating_point())
            yield
        finally:
            for p, flag in before:
                p.requires_grad_(flag)

    @contextlib.contextmanager
    def float64(self) -> Iterator[None]:
        """Networks and leaves in float64 meanwhile; afterwards the very same float32 tensors are back."""
        pipe_modules = [m for m in self.gen.pipe.components.values() if isinstance(m, nn.Module)]
        held = [t for m in pipe_modules for t in (*m.parameters(), *m.buffers()) if t.is_floating_point()]
        held += [t for name, group in self.groups.items() if name != "weights" for t in group]
        held += [t for t in (self.latents, self.embeds, self.negative) if t is not None]
        kept, dtype = [(t, t.data) for t in {id(t): t for t in held}.values()], self.dtype
        try:
            for tensor, data in kept:
                tensor.data = data.double()
            self.dtype = torch.float64
            yield
        finally:
            for tensor, data in kept:
                tensor.data = data
            self.dtype = dtype

    def variant(self, engine: str, road: str | None = None) -> tuple[str, Any]:
        """The generator with this engine, and the road it runs on (the adjoint knows the ODE road only)."""
        road = road or ("ode" if engine.startswith("adjoint") else self.gen.road)
        changes: dict[str, Any] = {"gradient": engine, "wrt": self.wrt}
        if engine == "adjoint:paper":
            changes["gradient"] = Adjoint(preset="paper")
        if road == "ode" and self.gen.road != "ode":
            changes |= {"solver": "ab4", "spacing": "logsnr"}
        return road, self.gen.with_(**changes)

    def loss_of(self, variant: Any, steps: int) -> Tensor:
        embeds = {"prompt_embeds": self.embeds}
        if self.negative is not None:
            embeds["negative_prompt_embeds"] = self.negative
        guidance = self.guidance if "guidance" in self.groups else float(self.guidance)
        out = variant(latents=self.latents, num_inference_steps=steps, guidance_scale=guidance, **embeds, **self.call)
        image: Tensor = out.image_unclamped
        self.saturated_share = float(((image <= 0) | (image >= 1)).float().mean())
        if self.loss is not None:
            return self.loss(image)
        source = torch.Generator().manual_seed(self.seed)
        weight = torch.randn(image.shape, generator=source, dtype=torch.float64).to(image.device)
        return (image.double() * weight).mean()  # float64: the sum must not round what is compared

    def measure(self, variant: Any, steps: int, *, meter: bool = False) -> Measured:
        return gradient_of(lambda: self.loss_of(variant, steps), self.groups, "the metric", meter=meter)
