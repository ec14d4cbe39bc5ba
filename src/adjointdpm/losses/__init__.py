"""Losses on images: plain callables `loss(image, target) -> scalar` on (B, 3, H, W) tensors, nominally in [0, 1].

They know nothing of diffusion, and any callable of that kind serves as one.
"""

from adjointdpm.losses.check import check_loss, check_value
from adjointdpm.losses.external import efficientnet_features, lpips_loss
from adjointdpm.losses.load import NAMES, Loss, load_loss
from adjointdpm.losses.perceptual import Perceptual, feature_distance
from adjointdpm.losses.pixel import mse

__all__ = [
    "NAMES",
    "Loss",
    "Perceptual",
    "check_loss",
    "check_value",
    "efficientnet_features",
    "feature_distance",
    "load_loss",
    "lpips_loss",
    "mse",
]
