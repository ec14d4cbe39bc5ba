"""What can be asked of an image, one small differentiable function a file.

All take images (B, 3, H, W), nominally in [0, 1], and where they speak of the object its soft mask (B, H, W) in [0, 1];
all return one number an image, (B,), that is 0 where the wish is met.  Beside each loss stands a reading in a unit that
people know (IoU, dB, share of the picture), which is only measured.
"""

from adjointdpm.tasks.guide.objectives.collage import collage, collage_loss
from adjointdpm.tasks.guide.objectives.color import color_difference, color_loss
from adjointdpm.tasks.guide.objectives.low_resolution import low_resolution_loss, reduced
from adjointdpm.tasks.guide.objectives.placement import bounding_boxes, box_iou, box_loss, box_mask, mask_iou, mask_loss
from adjointdpm.tasks.guide.objectives.region import psnr, region_loss
from adjointdpm.tasks.guide.objectives.size import area, size_loss
from adjointdpm.tasks.guide.objectives.sketch import edges, line_strength, sketch_agreement, sketch_loss
from adjointdpm.tasks.guide.objectives.symmetry import SYMMETRIES, asymmetry, symmetry_loss

__all__ = [
    "SYMMETRIES",
    "area",
    "asymmetry",
    "bounding_boxes",
    "box_iou",
    "box_loss",
    "box_mask",
    "collage",
    "collage_loss",
    "color_difference",
    "color_loss",
    "edges",
    "line_strength",
    "low_resolution_loss",
    "mask_iou",
    "mask_loss",
    "psnr",
    "reduced",
    "region_loss",
    "size_loss",
    "sketch_agreement",
    "sketch_loss",
    "symmetry_loss",
]
