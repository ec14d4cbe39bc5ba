"""The size of an image as a JPEG file: the real one, and a differentiable estimate of it.

The estimate follows the format (ITU-T T.81): YCbCr, colour at half resolution, 8 × 8 cosine transforms, division by the
quantisation tables of Annex K at the asked quality.  A file spends on each coefficient that does not round to zero a
Huffman code for it and the zeros before it, and as many bits as its magnitude has: log2(1 + |c|) at |c| = 1, 3, 7, …
The rounding is replaced by a smooth share |c|⁴ / (|c|⁴ + ½⁴) of being kept.  `CODE_BITS`, the mean length of a Huffman
code, was fitted once to real files; the tests hold the estimate against files that Pillow writes, by rank correlation.
"""

from __future__ import annotations

import math
from functools import cache
from io import BytesIO

import torch
import torch.nn.functional as F
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["jpeg_file_size", "jpeg_size"]

QUALITY = 75  # Pillow's default
CODE_BITS = 3.5  # of a coefficient that is kept
BLOCK_BITS = 6.0  # of a block without any: its mean's category and the end-of-block code
LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61), *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56), *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77), *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101), *(72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99), *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99), *(47, 66, 99, 99, 99, 99, 99, 99),
    *[99] * 32,
)  # fmt: skip


def jpeg_size(images: Tensor, quality: int = QUALITY) -> Tensor:
    """Estimated kilobytes (B,) of images (B, 3, H, W) in [0, 1] as JPEG files; their headers are not counted."""
    _check_quality(quality)
    pixels = F.pad(255 * images, (0, -images.shape[-1] % 16, 0, -images.shape[-2] % 16), mode="replicate")
    r, g, b = pixels.unbind(dim=1)
    y = 0.299 * r + 0.587 * g + 0.114 * b - 128
    colours = torch.stack([(b - y - 128) * 0.564334, (r - y - 128) * 0.713267], dim=1)  # Cb, Cr less 128
    light, dark = (_table(base, quality).to(images) for base in (LUMINANCE, CHROMINANCE))
    bits = _bits(y[:, None], light) + _bits(F.avg_pool2d(colours, 2), dark)
    return bits / 8000


def jpeg_file_size(images: Tensor, quality: int = QUALITY) -> Tensor:
    """Kilobytes (B,) of the files that Pillow writes for images (B, 3, H, W), headers included; no gradient."""
    from PIL import Image

    _check_quality(quality)
    pixels = (255 * images.detach().float().clamp(0, 1)).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    sizes = []
    for picture in pixels:
        file = BytesIO()
        Image.fromarray(picture).save(file, format="JPEG", quality=quality)
        sizes.append(file.tell() / 1000)
    return torch.tensor(sizes, dtype=torch.float32, device=images.device)


def _bits(planes: Tensor, table: Tensor) -> Tensor:
    """Bits (B,) of planes (B, C, H, W), H and W multiples of 8."""
    basis = _cosines().to(planes)
    batch, channels, height, width = planes.shape
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)  # (…, rows, columns, 8, 8)
    c = basis @ blocks @ basis.T / table
    rows = c[..., 0, 0]
    means = torch.cat([rows[..., :1], rows[..., 1:] - rows[..., :-1]], dim=-1)  # a block's mean is coded as a change
    magnitude = torch.cat([means[..., None], c.flatten(-2)[..., 1:]], dim=-1).abs()
    kept = magnitude**4 / (magnitude**4 + 0.5**4)
    coefficients = kept * (CODE_BITS + torch.log2(1 + magnitude))
    return (coefficients.sum(dim=-1) + BLOCK_BITS).flatten(1).sum(dim=1)


@cache
def _cosines() -> Tensor:
    """The orthonormal 8-point cosine transform: row k, column n."""
    k, n = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(8.0, dtype=torch.float64)
    basis = torch.cos(math.pi * (n + 0.5) * k / 8) / 2
    basis[0] /= math.sqrt(2)
    return basis


def _table(base: tuple[int, ...], quality: int) -> Tensor:
    """The quantisation table (8, 8) at a quality of 1 … 100, scaled as libjpeg does."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = [min(max((step * scale + 50) // 100, 1), 255) for step in base]
    return torch.tensor(steps, dtype=torch.float64).view(8, 8)


def _check_quality(quality: int) -> None:
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise InvalidInput(f"JPEG quality is a whole number from 1 to 100, got {quality!r}")
