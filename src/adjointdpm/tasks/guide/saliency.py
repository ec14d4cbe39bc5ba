"""Which pixels are the object: a soft mask (B, H, W) in [0, 1] of images (B, 3, H, W), with a gradient.

Nothing is known of the object but that it differs from what lies along the picture's edge.  `Border` fits a plane to
each colour channel along the edge, which follows plain backgrounds and gradients, and measures how far each pixel is
from it.  `Features` does the same with the feature maps of a network, which sees a pattern as one thing where colours
see two.  The fit is robust, so that an object that covers part of the edge does not count as background, and carries no
gradient: the loss shall move the object, not redefine the background.

A mask of one's own, such as a segmentation network's, is named as "module:function".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from adjointdpm.errors import InvalidInput, NotDifferentiable
from adjointdpm.losses.load import load_function
from adjointdpm.losses.perceptual import FeatureExtractor
from adjointdpm.losses.users import blamed, handed
from adjointdpm.tasks.networks import fit_for

__all__ = ["NAMES", "Border", "Features", "Saliency", "border_plane", "check_saliency", "load_saliency"]

NAMES = ("border", "features")
ROUNDS = 6  # of reweighting; the fit stands still after four or five
TINY = 1e-6


class Saliency(Protocol):
    """Images (B, 3, H, W) -> soft masks (B, H, W) in [0, 1] of the object."""

    def __call__(self, image: Tensor) -> Tensor: ...


def border_plane(maps: Tensor, width: int, scale: float) -> Tensor:
    """What lies along the edge, continued over the picture: maps (B, C, H, W) -> planes of the same shape.

    Least squares of a + b x + c y over the outer `width` rows and columns, reweighted so that what is farther than
    about `scale` from the fit loses its say; it starts from the median.  No gradient.
    """
    with torch.no_grad():
        batch, channels, height, length = maps.shape
        y = torch.linspace(-1, 1, height, dtype=maps.dtype, device=maps.device)
        x = torch.linspace(-1, 1, length, dtype=maps.dtype, device=maps.device)
        basis = torch.stack([torch.ones(height, length).to(maps), x.expand(height, -1), y[:, None].expand(-1, length)])
        inside = torch.zeros(height, length, dtype=torch.bool, device=maps.device)
        inside[width : height - width, width : length - width] = True
        places = basis[:, ~inside]  # (3, N)
        values = maps[:, :, ~inside]  # (B, C, N)
        fitted = values.median(dim=2, keepdim=True).values.expand_as(values)
        ridge = TINY * torch.eye(3).to(maps)
        planes = torch.zeros(batch, channels, 3).to(maps)
        for _ in range(ROUNDS):
            squares = (values - fitted).square().mean(dim=1)  # (B, N): all channels of a pixel count together
            weights = (scale**2 / (squares + scale**2)).square()
            normal = torch.einsum("in,jn,bn->bij", places, places, weights) / places.shape[1] + ridge
            right = torch.einsum("in,bcn,bn->bic", places, values, weights) / places.shape[1]
            planes = torch.linalg.solve(normal, right).transpose(1, 2)  # (B, C, 3)
            fitted = planes @ places
        return torch.einsum("bci,ihw->bchw", planes, basis)


def _saturated(squares: Tensor, scale: float) -> Tensor:
    """d^2 / (d^2 + scale^2): half at `scale`; unlike a Gaussian's it still has a gradient far from it."""
    return squares / (squares + scale**2)


class Border:
    """Distance in colour from the plane of the edge; `scale` (root mean square over r, g, b) counts half."""

    def __init__(self, scale: float = 0.12) -> None:
        self.scale = scale

    def __call__(self, image: Tensor) -> Tensor:
        ground = self.background(image)
        return _saturated((image - ground).square().mean(dim=1), self.scale)

    def background(self, image: Tensor) -> Tensor:
        """The picture without its object, as far as the edge tells, (B, 3, H, W).  No gradient."""
        return border_plane(image.detach(), max(2, min(image.shape[-2:]) // 20), self.scale)


class Features:
    """Distance in one feature map of a network, in units of the spread along the edge.

    `layer` picks from what `network.features` returns, finest first.
    """

    def __init__(self, network: FeatureExtractor, layer: int = 1, scale: float = 3.0) -> None:
        if not callable(getattr(network, "features", None)):
            raise InvalidInput(f"{type(network).__name__} has no method features(image) -> list of (B, C, h, w)")
        self.network, self.layer, self.scale = network, layer, scale

    def __call__(self, image: Tensor) -> Tensor:
        maps = self.network.features(fit_for(self.network, image))[self.layer]
        with torch.no_grad():
            spread = maps.detach().flatten(2).std(dim=2)[..., None, None].clamp_min(TINY)
            ground = border_plane(maps.detach() / spread, 1, 0.5)
            edge = _frame(maps.detach() / spread - ground)
            noise = edge.abs().median(dim=2).values[..., None, None] / 0.6745 + 0.1  # robust standard deviation
        mask = _saturated(((maps / spread - ground) / noise).square().mean(dim=1), self.scale)
        large = F.interpolate(mask[:, None], size=image.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return large.to(image.dtype)


def _frame(maps: Tensor) -> Tensor:
    """The outer rows and columns of maps (B, C, H, W) as (B, C, N)."""
    sides = (maps[:, :, 0], maps[:, :, -1], maps[:, :, 1:-1, 0], maps[:, :, 1:-1, -1])
    return torch.cat(sides, dim=2)


def load_saliency(name: str, network: Callable[[], FeatureExtractor] | None = None) -> Saliency:
    """ "border", "features" (of what `network` makes), "module:function" or "file.py:function".

    Raises `InvalidInput` naming what is missing or cannot be imported.
    """
    if name == "border":
        return Border()
    if name == "features":
        if network is None:
            raise InvalidInput("the saliency 'features' needs a network with features; none was given")
        return Features(network())
    if ":" in name:
        return _users(name)
    raise InvalidInput(f"no saliency {name!r}; expected {', '.join(NAMES)}, 'module:function' or 'file.py:function'")


def _users(name: str) -> Saliency:
    who = f"the saliency {name!r}"
    function = load_function(name)
    handed(function, ("image",), who)

    def saliency(image: Tensor) -> Tensor:
        with blamed(who):
            mask: Tensor = function(image)
        return mask

    return saliency


def check_saliency(saliency: Saliency, image: Tensor) -> None:
    """Try it once: shape (B, H, W), values in [0, 1], a gradient.  Raises `InvalidInput` or `NotDifferentiable`."""
    probe = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        mask = saliency(probe)
    wanted = (image.shape[0], *image.shape[-2:])
    if not isinstance(mask, Tensor) or tuple(mask.shape) != wanted:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InvalidInput(f"the saliency returned {got}; expected a mask of shape {wanted}")
    low, high = float(mask.detach().min()), float(mask.detach().max())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # NaN fails too
        raise InvalidInput(f"the saliency's values run from {low:g} to {high:g}; expected a mask within 0 and 1")
    with blamed("the backward of the saliency"):
        gradient = torch.autograd.grad(mask.sum(), probe, allow_unused=True)[0] if mask.requires_grad else None
    if gradient is None or not bool(gradient.any()):
        raise NotDifferentiable(
            "the saliency has no gradient: a threshold, an argmax or a detach lies between image and mask; "
            "return probabilities instead"
        )
