"""A collage: the object of a picture, cut out, resized and pasted where it shall be.

The placement losses say where the object shall be and not what it looks like there, so far from its place they first
have to take it apart.  A picture with the object moved, made with scissors from the unguided one, is a target that the
image can be pulled to pixel by pixel; the sampler sees to it that the result is an image of the model and no collage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adjointdpm.tasks.guide.objectives.placement import Box, bounding_boxes

__all__ = ["collage", "collage_loss"]

WHOLE = 2.5  # weight of the mean squared difference beside that of the direction
LEAST = 4  # pixels of an object's side; less is a speck, not an object


def collage(image: Tensor, mask: Tensor, background: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) with each object as large as fits into `box`, in its middle, and their masks (B, H, W).

    image, mask, background: the picture, its soft mask (B, H, W), and the picture without its object.  The object keeps
    its proportions.  Where the mask shows none, the whole picture is pasted.  No gradient.
    """
    with torch.no_grad():
        height, width = image.shape[-2:]
        found = bounding_boxes(mask)
        lost = ((found[:, 2] - found[:, 0]) < LEAST) | ((found[:, 3] - found[:, 1]) < LEAST)
        found[lost] = torch.tensor([0.0, 0.0, width, height])
        left, top, right, bottom = box
        scale = torch.minimum(
            (right - left) / (found[:, 2] - found[:, 0]), (bottom - top) / (found[:, 3] - found[:, 1])
        )
        middle = torch.tensor([(left + right) / 2, (top + bottom) / 2])
        own = torch.stack([found[:, 0] + found[:, 2], found[:, 1] + found[:, 3]], dim=1) / 2
        # where each pixel of the result comes from: p -> own middle + (p - middle) / scale
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        places = torch.stack([x, y], dim=-1)[None]
        source = own[:, None, None] + (places - middle) / scale[:, None, None, None]
        grid = 2 * source / torch.tensor([width, height]) - 1
        cut = torch.cat([(image - background) * mask[:, None], mask[:, None]], dim=1)
        moved = F.grid_sample(cut, grid.to(cut), mode="bilinear", padding_mode="zeros", align_corners=False)
        return background + moved[:, :3], moved[:, 3]


def collage_loss(image: Tensor, ground: Tensor, pasted: Tensor, pasted_ground: Tensor) -> Tensor:
    """(B,): 1 - cos of what stands out from the grounds, and a little of the pictures' mean squared difference.

    A squared difference alone is made smaller by fading the object where it stands, halfway to where it shall be; its
    direction is not.  The squared difference keeps the background's colour.  All arguments: (B, 3, H, W).
    """
    ours, wanted = (image - ground).flatten(1), (pasted - pasted_ground).flatten(1)
    turned = 1 - F.cosine_similarity(ours, wanted, dim=1, eps=1e-3)
    return turned + WHOLE * (image - pasted).square().mean(dim=(1, 2, 3))
