"""One gradient problem: the embedded U-Net (or a network that does nothing) on a grid, and what is differentiated.

No guidance, so that one evaluation of the field is one call of one sample and methods are compared call by call.  The
grid is even in t, which every row accepts, `belm` too; it ends above sigma = 0, so N steps of Euler are N calls.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import adjointdpm as ad
from adjointdpm.models import Denoiser, GuidedDenoiser
from adjointdpm.ode import ODE, make_ode
from adjointdpm.schedules import Grid, from_scheduler_config, make_grid
from benchmarks.gradients.programs import program

__all__ = ["CALLS", "Problem", "pipeline"]

PROMPT = "shaded apple on white background"
CALLS = [0]  # of the networks below, replays included


@lru_cache(maxsize=1)
def pipeline() -> Any:
    return ad.zoo.emoji()


class UNet(nn.Module):
    """The embedded U-Net as `net(x, t, cond)`."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        CALLS[0] += 1
        return self.unet(x, t, cond, return_dict=False)[0]  # type: ignore[no-any-return]


class Nothing(nn.Module):
    """A network that does next to nothing, with a path to everything that is differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.9))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        CALLS[0] += 1
        return self.weight * x + cond[:, :1, :1, None]


@lru_cache(maxsize=4)
def network(name: str, dtype: torch.dtype) -> nn.Module:
    if name == "nothing":
        return Nothing().to(dtype)
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(
        ad.zoo.emoji_folder() / "unet", local_files_only=True, torch_dtype=dtype
    )
    return UNet(unet.requires_grad_(False).eval())


@lru_cache(maxsize=1)
def embedding() -> Tensor:
    found: Tensor = ad.differentiable(pipeline()).encode_prompt([PROMPT])[0].detach()
    return found


class Problem:
    """`kind` is "x_T", "cond" or "weights": what alone requires grad.

    Attributes:
        net, denoiser, ode, grid: the network, wrapped; the exponential form; the nodes.
        x_T, cond: (1, 8, 16, 16) and (1, length, 128).
        leaves: what is differentiated.
        plain_bytes: peak of live tensors of plain backprop, once a section has measured it.
    """

    def __init__(
        self, kind: str, steps: int, dtype: torch.dtype = torch.float32, name: str = "unet", spacing: Any = "uniform"
    ) -> None:
        self.kind, self.steps, self.dtype, self.name, self.spacing = kind, steps, dtype, name, spacing
        self.net = network(name, dtype)
        self.schedule, prediction = from_scheduler_config(pipeline().scheduler)
        self.denoiser = Denoiser(self.net, self.schedule, prediction)  # type: ignore[arg-type]
        self.grid: Grid = make_grid(self.schedule, steps, spacing, to_zero=False)
        noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
        self.x_T = noise.to(dtype).requires_grad_(kind in ("x_T", "all"))
        self.cond = embedding().to(dtype).clone().requires_grad_(kind in ("cond", "all"))
        self.programs = {s: program(s, self.schedule, self.grid) for s in ("euler", "heun", "rk4", "ab4")}
        self.plain_bytes = 0

    @property
    def weights(self) -> list[nn.Parameter]:
        return list(self.net.parameters())

    @property
    def leaves(self) -> list[Tensor]:
        named = {"x_T": [self.x_T], "cond": [self.cond], "weights": self.weights}
        return [leaf for name, group in named.items() for leaf in group if self.kind in (name, "all")]

    @property
    def ode(self) -> ODE:
        return make_ode("exponential", GuidedDenoiser(self.denoiser, self.cond, None, 1.0, self.x_T))

    @property
    def ends(self) -> tuple[float, float]:
        """alpha at both ends: y = x / alpha."""
        return float(self.grid.alpha[0]), float(self.grid.alpha[-1])

    def loss(self, x: Tensor) -> Tensor:
        return (x - 0.3).square().mean()

    def begin(self) -> None:
        """Which weights require grad is the network's state, and problems share networks."""
        for weight in self.weights:
            weight.requires_grad_(self.kind in ("weights", "all"))
            weight.grad = None
        self.x_T.grad = self.cond.grad = None
        CALLS[0] = 0
