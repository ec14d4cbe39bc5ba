"""Rewards on images: plain callables `reward(images, prompts) -> scores`, (B, 3, H, W) in [0, 1] -> (B,).

Higher is better.  They know nothing of diffusion, any callable of that kind serves as one, and none downloads anything.
"""

from adjointdpm.losses.rewards.check import check_reward, check_scores
from adjointdpm.losses.rewards.classify import ClassProbability
from adjointdpm.losses.rewards.clip import ClipSimilarity, EmbeddingSimilarity, load_clip
from adjointdpm.losses.rewards.colour import chroma, colourfulness
from adjointdpm.losses.rewards.jpeg import jpeg_file_size, jpeg_size
from adjointdpm.losses.rewards.sharpness import sharpness
from adjointdpm.losses.rewards.terms import BUILT_IN, Reward, Term, load_reward, read_term

__all__ = [
    "BUILT_IN",
    "ClassProbability",
    "ClipSimilarity",
    "EmbeddingSimilarity",
    "Reward",
    "Term",
    "check_reward",
    "check_scores",
    "chroma",
    "colourfulness",
    "jpeg_file_size",
    "jpeg_size",
    "load_clip",
    "load_reward",
    "read_term",
    "sharpness",
]
