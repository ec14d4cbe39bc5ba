"""Classifier stage: both networks learn objects and styles from composed real drawings.

All pairs are seen, also those held out from the denoiser.  Augmentation: the composer's own
backgrounds, effects, light, places and blur; random crops that zoom a little; hue rotation; and the
autoencoder's round trip on a part of each batch, since that is how generated images look.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adjointdpm.zoo.classifiers import Classifier, Judge, Scores
from adjointdpm.zoo.compose import Scenes, Sprites, compose
from adjointdpm.zoo.draw import draw_scenes
from adjointdpm.zoo.lexicon import STYLES
from adjointdpm.zoo.train_diffusion import load_autoencoder
from adjointdpm.zoo.training import Run

BATCH = 64
ROUND_TRIP = 10  # images of a batch that pass through the autoencoder
PEAK_RATE = 3e-3
NETWORKS: dict[str, tuple[type[nn.Module], int]] = {"classifier": (Classifier, 1), "judge": (Judge, 2)}


def hue_rotation(image: Tensor, angle: Tensor) -> Tensor:
    """Rotate colours around the gray axis by one angle (radians) per image."""
    axis = torch.full((3,), 1 / math.sqrt(3))
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    matrix = cos * torch.eye(3) + sin * cross + (1 - cos) * torch.outer(axis, axis)
    return torch.einsum("bij,bjhw->bihw", matrix.to(image), image).clamp(0, 1)


def random_crop(image: Tensor, g: torch.Generator) -> Tensor:
    """Zoom by 0.9 to 1.15 around a point near the middle, edges repeated."""
    n = image.shape[0]
    zoom = 1 / (0.9 + 0.25 * torch.rand(n, generator=g))
    shift = 0.12 * torch.rand(n, 2, generator=g) - 0.06
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = zoom, zoom, shift
    grid = F.affine_grid(theta.to(image), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def augmented(sprites: Sprites, vae: nn.Module, n: int, g: torch.Generator, run: Run) -> tuple[Tensor, Scenes]:
    scenes = draw_scenes(n, g, include_held_out=True)
    image = compose(scenes, sprites, g, jitter=bool(torch.rand(1, generator=g) < 0.5))
    turned = torch.rand(n, generator=g) < 0.3
    image[turned] = hue_rotation(image[turned], 0.5 * torch.randn(int(turned.sum()), generator=g))
    cropped = torch.rand(n, generator=g) < 0.4
    image[cropped] = random_crop(image[cropped], g)
    image = image.to(run.device, memory_format=torch.channels_last)
    k = min(ROUND_TRIP, n)
    with torch.no_grad(), run.autocast():
        passed = vae.decoder(vae.encoder(2 * image[:k] - 1))
    image[:k] = (0.5 + 0.5 * passed.float()).clamp(0, 1)
    return image, scenes


def accuracy(scores: Scores, scenes: Scenes) -> dict[str, float]:
    """Share of right objects and styles."""
    return {
        "objects": float((scores.objects.argmax(1).cpu() == scenes.object).float().mean()),
        "styles": float((scores.styles.argmax(1).cpu() == scenes.style).float().mean()),
    }


def train_classifier(run: Run, sprites: Sprites, name: str) -> None:
    """Train `classifier` or `judge` until the time is up, then write its weights."""
    kind, seed = NETWORKS[name]
    torch.manual_seed(seed)
    network = kind().to(run.device, memory_format=torch.channels_last)
    vae = load_autoencoder(run.folder, run.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.02)
    g = torch.Generator().manual_seed(seed)
    run.resume(network=network, optimizer=optimizer, generator=g)
    losses: list[float] = []
    while run.going():
        run.set_rate(optimizer, PEAK_RATE, warmup=100)
        image, scenes = augmented(sprites, vae, BATCH, g, run)
        with run.autocast():
            scores = network(image)
        named = (scenes.object * len(STYLES) + scenes.style).to(run.device)
        loss = F.cross_entropy(scores.drawings.flatten(1).float(), named, label_smoothing=0.03)
        loss.backward()
        losses.append(run.update(optimizer, loss.item(), 1))
        if run.step % 100 == 0:
            run.log(loss=sum(losses) / len(losses), images=run.step * BATCH, **accuracy(scores, scenes))
            losses.clear()
        run.tick(network=network, optimizer=optimizer, generator=g)
    run.save(network=network, optimizer=optimizer, generator=g)
    test = torch.Generator().manual_seed(99_000_017)
    run.log(final=True, **held_out_accuracy(network.eval(), sprites, vae, test, run))
    run.save_weights(name, network.state_dict())


@torch.no_grad()
def held_out_accuracy(
    network: nn.Module, sprites: Sprites, vae: nn.Module, g: torch.Generator, run: Run, n: int = 2000
) -> dict[str, float]:
    """On augmentations drawn from another seed, round trip included."""
    right = {"objects": 0.0, "styles": 0.0}
    for _ in range(n // 100):
        image, scenes = augmented(sprites, vae, 100, g, run)
        for key, share in accuracy(network(image), scenes).items():
            right[key] += share / (n // 100)
    return right
