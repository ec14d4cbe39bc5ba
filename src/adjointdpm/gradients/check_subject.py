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
from adjointdpm.gradients.truncated import RandomTruncation

__all__ = ["Subject", "Trace"]

Trace = dict[int, Tensor]  # dL/dy by node
REVERSIBLE = "ode, belm"


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
        unet = getattr(gen.pipe, "unet", None)  # not `unet or …`: a compiled module has no truth value
        self.denoiser: nn.Module = gen.pipe.transformer if unet is None else unet
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
        """The generator with this engine, and the road it runs on.

        All but "full" and "exact" know the ODE road only, and "reversible" a solver and a grid of its own there.
        """
        if road is None:
            road = self.gen.road if engine in ("full", "exact") else REVERSIBLE if engine == "reversible" else "ode"
        changes: dict[str, Any] = {"gradient": engine, "wrt": self.wrt}
        if engine == "adjoint:paper":
            changes["gradient"] = Adjoint(preset="paper")
        if engine == "random_truncation":
            changes["gradient"] = RandomTruncation(torch.Generator().manual_seed(self.seed))
        if road == REVERSIBLE:
            changes |= {"solver": "belm", "spacing": "uniform", "form": "angle", "state_dtype": torch.float64}
        elif road == "ode" and self.gen.road != "ode":
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

    def measure(
        self,
        variant: Any,
        steps: int,
        *,
        meter: bool = False,
        trace: Trace | None = None,
        without: tuple[str, ...] = (),
    ) -> Measured:
        """Loss and gradients of one call; `trace` is filled with dL/dy at each node (ODE road).

        `without`: names of groups that get no gradient this time, nor require one.
        """
        if trace is not None:
            variant = variant.with_(on_adjoint=lambda n, a: trace.__setitem__(n, a.detach().double().cpu()))
        groups = {name: group for name, group in self.groups.items() if name not in without}
        left_out = [leaf for name in without for leaf in self.groups.get(name, ())]
        for leaf in left_out:
            leaf.requires_grad_(False)
        try:
            return gradient_of(lambda: self.loss_of(variant, steps), groups, "the metric", meter=meter)
        finally:
            for leaf in left_out:
                leaf.requires_grad_(True)

    def round_trip(self, steps: int) -> float:
        """Relative distance of x_T to the noise that the ODE leads back to from its sample; NaN off the ODE road."""
        if self.gen.road != "ode" or not hasattr(self.gen, "to_noise"):
            return math.nan
        embeds = {"prompt_embeds": self.embeds.detach()}
        if self.negative is not None:
            embeds["negative_prompt_embeds"] = self.negative.detach()
        call = {"num_inference_steps": steps, "guidance_scale": float(self.guidance.detach()), **embeds, **self.call}
        with torch.no_grad():
            latents = self.latents.detach()
            try:
                back = self.gen.to_noise(self.gen(latents=latents, **call).latents, **call)
            except InvalidInput:  # a stochastic solver has no way back
                return math.nan
        return float((back - latents).norm() / latents.norm())
