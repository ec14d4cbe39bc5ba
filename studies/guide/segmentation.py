"""The object's box as the study measures it: thresholds and connected parts, in numpy.

Nothing of it was optimised: it has no gradient, and it shares no code with the soft masks of the task.  The ground is
the commonest colour along the picture's edge, the object what differs from it by more than Otsu's threshold (Otsu
1979), without specks.  It is made for plain backgrounds; `validate.py` says how good it is on real drawings.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

__all__ = ["boxes", "components", "object_pixels", "otsu"]

LEVELS = 16  # per channel, of the histogram that finds the commonest colour
LOWEST, HIGHEST = 24, 90  # bounds of the threshold, in levels of 255
SPECK = 0.1  # of the largest part's pixels: smaller parts do not count
EDGE = 2  # pixels


def object_pixels(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) bool; all False where nothing stands out."""
    inside = np.zeros(image.shape[:2], bool)
    inside[EDGE:-EDGE, EDGE:-EDGE] = True
    edge = image[~inside].astype(int)
    codes = (edge // (256 // LEVELS)) @ np.array([LEVELS * LEVELS, LEVELS, 1])
    common = edge[codes == np.bincount(codes).argmax()].mean(axis=0)
    near = edge[np.abs(edge - common).max(axis=1) <= 256 // LEVELS]
    ground = np.median(near, axis=0)
    distance = np.abs(image - ground).max(axis=2).round().astype(int)
    threshold = min(max(otsu(distance), LOWEST), HIGHEST)
    parts = components(distance > threshold)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if not sizes.any():
        return np.zeros(image.shape[:2], bool)
    return np.isin(parts, np.nonzero(sizes >= SPECK * sizes.max())[0])


def otsu(values: np.ndarray) -> float:
    """The threshold between two classes of whole numbers 0 … 255 that lie farthest apart for their spread."""
    counts = np.bincount(values.ravel().clip(0, 255), minlength=256).astype(float)
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * np.arange(256)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(np.nan_to_num(between).argmax())


def components(mask: np.ndarray) -> np.ndarray:
    """Number of the connected part (8 neighbours) of each pixel, 0 outside of the mask.

    Every pixel takes the largest number around it until nothing changes.
    """
    height, width = mask.shape
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        around = np.pad(numbers, 1)
        shifts = [around[r : r + height, c : c + width] for r in range(3) for c in range(3)]
        spread = np.where(mask, np.max(shifts, axis=0), 0)
        if (spread == numbers).all():
            found = np.unique(numbers, return_inverse=True)[1].reshape(mask.shape)
            return found if not mask.all() else found + 1
        numbers = spread


def boxes(images: Tensor) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom of the object in each image (B, 3, H, W) in [0, 1]; zeros where there is none."""
    found = []
    for image in (images.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
        rows, columns = np.nonzero(object_pixels(image))
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else (0, 0, 0, 0)
        found.append(tuple(int(edge) for edge in box))
    return found
