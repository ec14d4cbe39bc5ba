"""The real images that the model's images are held against: composed scenes, or a folder of one's own.

The embedded model was trained on scenes composed on the fly from drawings.  Drawing scenes in the same way gives its
own distribution of prompts, and composing the same scenes gives the real images of exactly these prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.table1.config import Table1Config

__all__ = ["need_real", "real_images", "scene_prompts"]

SCENES_SEED = 6_000_011  # of neither the training nor the evaluation
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def scene_prompts(config: Table1Config) -> list[str]:
    """The captions of the run's scenes, every word named; noise i belongs to prompt i."""
    from adjointdpm.zoo.captions import caption

    scenes = _scenes(config)
    return [caption(scenes, i) for i in range(len(scenes))]


def _scenes(config: Table1Config) -> Any:
    from adjointdpm.zoo.draw import draw_scenes

    return draw_scenes(config.samples, torch.Generator().manual_seed(SCENES_SEED + config.seed))


def need_real(config: Table1Config) -> None:
    """Raise InvalidInput if the real images cannot be had, before any long work."""
    if not config.scenes and config.real is not None and len(_files(config.real)) < 2:
        raise InvalidInput(f"{config.real} is no folder with at least 2 images ({', '.join(PICTURES)})")
    if config.scenes and not config.sprites.is_file():
        raise InvalidInput(
            f"the real images are composed from drawings, which are not in the package, and {config.sprites} is not "
            "there: python -m adjointdpm.zoo.train data fetches them into .cache/zoo (needs npm), and images=0 leaves "
            "Fréchet distance and KID out"
        )


def real_images(config: Table1Config, size: tuple[int, int]) -> dict[str, Tensor]:
    """{"real": (N, 3, H, W) 8 bits}, and "other", as many real images of other scenes, where scenes can be drawn.

    Args:
        config: of the run.
        size: height and width of the model's images.
    """
    if not config.scenes:
        from adjointdpm.pipelines.images import load_images

        assert config.real is not None  # validated
        return {"real": _bits(load_images(_files(config.real), *size))}
    from adjointdpm.zoo.compose import Sprites, compose

    sprites, generator = Sprites.load(config.sprites), torch.Generator().manual_seed(SCENES_SEED - 1 - config.seed)
    scenes = _scenes(config)
    other = _scenes(config.model_copy(update={"seed": config.seed + config.samples}))
    composed = {name: _bits(compose(s, sprites, generator)) for name, s in (("real", scenes), ("other", other))}
    return {name: images[: config.images] for name, images in composed.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES) if folder.is_dir() else []


def _bits(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
