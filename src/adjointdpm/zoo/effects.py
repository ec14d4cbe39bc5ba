"""Visual effects as differentiable functions on images (B, 3, H, W) in [0, 1].

The same functions compose the training data and serve as target effects of the inversion task, so
what a word was trained on and what it is measured against cannot drift apart.  `strength` is a
number or one value per image: 0 leaves the image alone, 1 is the full effect.  Colour effects
are affine maps or tone curves per pixel; `bokeh` and `relight` know about the picture's plane.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Strength = float | Tensor
LUMA = (0.299, 0.587, 0.114)
SEPIA = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))


def _per_image(strength: Strength, image: Tensor) -> Tensor:
    """`strength` as (B or 1, 1, 1, 1) in the image's dtype."""
    return torch.as_tensor(strength, dtype=image.dtype, device=image.device).reshape(-1, 1, 1, 1)


def luminance(image: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W), Rec. 601 weights."""
    weights = torch.tensor(LUMA, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    return (image * weights).sum(dim=1, keepdim=True)


def _toward(image: Tensor, full: Tensor, strength: Strength) -> Tensor:
    return (image + _per_image(strength, image) * (full - image)).clamp(0, 1)


def _gain(image: Tensor, rgb: tuple[float, float, float], strength: Strength) -> Tensor:
    gains = torch.tensor(rgb, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    return _toward(image, image * gains, strength)


def black_and_white(image: Tensor, strength: Strength = 1.0) -> Tensor:
    return _toward(image, luminance(image).expand_as(image), strength)


def sepia(image: Tensor, strength: Strength = 1.0) -> Tensor:
    matrix = torch.tensor(SEPIA, dtype=image.dtype, device=image.device)
    toned = torch.einsum("ij,bjhw->bihw", matrix, image)
    return _toward(image, toned, strength)


def warm(image: Tensor, strength: Strength = 1.0) -> Tensor:
    return _gain(image, (1.0, 0.74, 0.42), strength)


def cool(image: Tensor, strength: Strength = 1.0) -> Tensor:
    return _gain(image, (0.45, 0.70, 1.0), strength)


def rosy(image: Tensor, strength: Strength = 1.0) -> Tensor:
    return _gain(image, (1.0, 0.52, 0.74), strength)


def greenish(image: Tensor, strength: Strength = 1.0) -> Tensor:
    return _gain(image, (0.52, 1.0, 0.50), strength)


def vivid(image: Tensor, strength: Strength = 1.0) -> Tensor:
    """Saturation up to twofold, around luminance."""
    gray = luminance(image)
    return _toward(image, gray + 2.0 * (image - gray), strength)


def faded(image: Tensor, strength: Strength = 1.0) -> Tensor:
    """Less saturation and contrast, like a print left in the sun."""
    washed = 0.45 * image + 0.55 * (0.25 * luminance(image) + 0.75 * 0.72)
    return _toward(image, washed, strength)


def dark(image: Tensor, strength: Strength = 1.0) -> Tensor:
    return _toward(image, 0.38 * image, strength)


def bright(image: Tensor, strength: Strength = 1.0) -> Tensor:
    """Gamma and a lift: shadows open, colours pale, white stays."""
    return _toward(image, 0.28 + 0.72 * image.clamp_min(1e-4) ** 0.7, strength)


def _kernel(sigma: Tensor, radius: int) -> Tensor:
    """Normalised Gaussian taps, one row per image: (B, 2 radius + 1)."""
    grid = torch.arange(-radius, radius + 1, dtype=sigma.dtype, device=sigma.device)
    taps = torch.exp(-0.5 * (grid / sigma.clamp_min(1e-3).view(-1, 1)) ** 2)
    return taps / taps.sum(dim=1, keepdim=True)


def gaussian_blur(image: Tensor, sigma: Strength) -> Tensor:
    """Separable Gaussian blur with one sigma (pixels) per image, borders repeated."""
    batch, channels, height, width = image.shape
    sigmas = torch.as_tensor(sigma, dtype=image.dtype, device=image.device).reshape(-1).expand(batch)
    radius = max(1, int(3 * float(sigmas.max()) + 0.5))
    taps = _kernel(sigmas, radius).repeat_interleave(channels, dim=0)  # (B C, taps)
    flat = F.pad(image.reshape(1, batch * channels, height, width), (radius,) * 4, mode="replicate")
    flat = F.conv2d(flat, taps[:, None, :, None], groups=batch * channels)
    flat = F.conv2d(flat, taps[:, None, None, :], groups=batch * channels)
    return flat.view_as(image)


def blurred(image: Tensor, strength: Strength = 1.0) -> Tensor:
    """Out of focus all over: Gaussian blur with sigma up to 1/24 of the height."""
    sigma = _per_image(strength, image).flatten() * image.shape[-2] / 24 + 1e-3
    return gaussian_blur(image, sigma)


def foreground_mask(image: Tensor) -> Tensor:
    """Soft mask (B, 1, H, W) of what differs from the colours found along the border.

    Backgrounds here are one or two colours (plain, gradient by rows, pattern); a pixel belongs to
    the background if it is close to a border pixel of its own row's ends or to either of the two
    colours that are farthest apart on the border.
    """
    with torch.no_grad():
        b, _, h, _ = image.shape
        border = torch.cat(
            [image[:, :, :2].flatten(2), image[:, :, :, :2].flatten(2), image[:, :, :, -2:].flatten(2)], 2
        )
        luma = (border * torch.tensor(LUMA, dtype=image.dtype, device=image.device).view(1, 3, 1)).sum(1)
        low, high = (luma.argsort(dim=1)[:, k] for k in (luma.shape[1] // 5, -luma.shape[1] // 5))
        pick = torch.arange(b, device=image.device)
        ends = [border[pick, :, low].view(b, 3, 1, 1), border[pick, :, high].view(b, 3, 1, 1)]
        rows = [image[:, :, :, :2].mean(-1, keepdim=True), image[:, :, :, -2:].mean(-1, keepdim=True)]
        distance = torch.stack([(image - c).square().sum(1).sqrt() for c in ends + rows]).amin(0)
        mask = ((distance - 0.12) / 0.12).clamp(0, 1)[:, None]
        radius = max(1, h // 32)
        size = 2 * radius + 1
        opened = -F.max_pool2d(-mask, 3, 1, 1)  # erode away single pixels, then close holes
        opened = F.max_pool2d(opened, 3 + size - 1, 1, (3 + size - 1) // 2)
        closed = -F.max_pool2d(-opened, size, 1, radius)
        return gaussian_blur(closed, 0.6)


def bokeh(image: Tensor, strength: Strength = 1.0, mask: Tensor | None = None) -> Tensor:
    """Blurs the background and keeps the object sharp; `mask` (B, 1, H, W) is 1 on the object.

    Without a mask it is estimated from the border's colours.  The blur is normalised by the
    background's own coverage, so the object's colours do not bleed into it.
    """
    if mask is None:
        mask = foreground_mask(image)
    sigma = _per_image(strength, image).flatten() * image.shape[-2] / 12 + 1e-3
    coverage = (1 - mask).clamp_min(1e-3)
    behind = gaussian_blur(image * coverage, sigma) / gaussian_blur(coverage, sigma).clamp_min(1e-3)
    return (mask * image + (1 - mask) * behind).clamp(0, 1)


def relight(image: Tensor, strength: Strength = 1.0, side: str = "left") -> Tensor:
    """Directional light: a ramp of gain across the picture, brightest at `side`."""
    height, width = image.shape[-2:]
    if side in ("left", "right"):
        ramp = torch.linspace(1, -1, width, dtype=image.dtype, device=image.device).view(1, 1, 1, -1)
    elif side in ("top", "bottom"):
        ramp = torch.linspace(1, -1, height, dtype=image.dtype, device=image.device).view(1, 1, -1, 1)
    else:
        raise ValueError(f"side must be left, right, top or bottom, got {side!r}")
    if side in ("right", "bottom"):
        ramp = -ramp
    strength = _per_image(strength, image)
    gain = 1 + strength * (0.62 * ramp - 0.30)
    glow = strength * 0.16 * ramp.clamp_min(0) ** 2
    return (image * gain + glow).clamp(0, 1)


def duotone(
    image: Tensor,
    strength: Strength = 1.0,
    shadows: tuple[float, float, float] | Tensor = (0.28, 0.05, 0.48),
    highlights: tuple[float, float, float] | Tensor = (1.0, 0.86, 0.25),
) -> Tensor:
    """Luminance mapped to a line between two colours (default: purple shadows, yellow lights)."""
    ends = [
        torch.as_tensor(c, dtype=image.dtype, device=image.device).reshape(-1, 3, 1, 1) for c in (shadows, highlights)
    ]
    gray = luminance(image)
    return _toward(image, ends[0] + (ends[1] - ends[0]) * gray, strength)


def color_grade(
    image: Tensor,
    strength: Strength = 1.0,
    shadows: tuple[float, float, float] | Tensor = (-0.10, 0.12, 0.22),
    highlights: tuple[float, float, float] | Tensor = (0.12, -0.04, -0.30),
) -> Tensor:
    """Split toning: one colour shift in the shadows, another in the lights (default: teal-orange)."""
    low, high = (
        torch.as_tensor(c, dtype=image.dtype, device=image.device).reshape(-1, 3, 1, 1) for c in (shadows, highlights)
    )
    gray = luminance(image)
    graded = image + low * (1 - gray) + high * gray
    return _toward(image, graded, strength)


def blue_hour(image: Tensor, strength: Strength = 1.0) -> Tensor:
    """Dark and blue at once, as after sunset."""
    return cool(dark(image, 0.6 * _per_image(strength, image)), strength)


EFFECTS: dict[str, Callable[..., Tensor]] = {
    "black_and_white": black_and_white,
    "sepia": sepia,
    "warm": warm,
    "cool": cool,
    "rosy": rosy,
    "greenish": greenish,
    "vivid": vivid,
    "faded": faded,
    "dark": dark,
    "bright": bright,
    "blurred": blurred,
    "bokeh": bokeh,
    "relight": relight,
    "duotone": duotone,
    "color_grade": color_grade,
    "blue_hour": blue_hour,
}
