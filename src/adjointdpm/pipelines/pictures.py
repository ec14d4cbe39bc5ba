"""From the tensor that a pipeline ends in to PIL images, through its own safety checker and watermark.

Neither is ever switched off.  They leave torch for numpy, so they run on a detached copy: the verdict goes into the
statistics, and every picture that is shown or saved is the one after them.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["safe_pictures", "to_pil", "verdict"]


def to_pil(image: torch.Tensor) -> list[Any]:
    """(B, 1 or 3 or 4, H, W) in [0, 1] as PIL images."""
    from PIL import Image

    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture) for picture in pixels]


def _has_checker(pipe: Any) -> bool:
    return getattr(pipe, "safety_checker", None) is not None and hasattr(pipe, "run_safety_checker")


@torch.no_grad()
def _checked(pipe: Any, decoded: torch.Tensor) -> tuple[Any, list[bool] | None]:
    checker_dtype = next(iter(pipe.safety_checker.parameters()), decoded).dtype
    image, flagged = pipe.run_safety_checker(decoded.clone(), decoded.device, checker_dtype)[:2]
    return image, None if flagged is None else [bool(flag) for flag in flagged]


def verdict(pipe: Any, decoded: torch.Tensor | None) -> list[bool] | None:
    """The safety checker's verdict for each image; None where the pipeline has none."""
    return _checked(pipe, decoded)[1] if decoded is not None and _has_checker(pipe) else None


@torch.no_grad()
def safe_pictures(
    pipe: Any, image: torch.Tensor, decoded: torch.Tensor | None, flagged: list[bool] | None
) -> list[Any]:
    """PIL images after safety checker and watermark.

    Args:
        pipe: the pipeline.
        image: (B, C, H, W) in [0, 1].
        decoded: the same as the pipeline's image processor was given it, or None where there is no processor.
        flagged: the verdict, if it is known already.
    """
    processor = getattr(pipe, "image_processor", None)
    if decoded is None or processor is None:
        return _marked(pipe, to_pil(image))
    shown: Any = decoded.clone()
    keep = None
    if _has_checker(pipe):
        shown, flagged = _checked(pipe, decoded)
        keep = [not flag for flag in flagged] if flagged is not None else None
    if getattr(pipe, "watermark", None) is not None:
        shown = pipe.watermark.apply_watermark(shown)
    more = {} if keep is None else {"do_denormalize": keep}
    return _marked(pipe, list(processor.postprocess(shown, output_type="pil", **more)))


def _marked(pipe: Any, pictures: list[Any]) -> list[Any]:
    marker = getattr(pipe, "watermarker", None)
    if marker is None:
        return pictures
    return list(marker.apply_watermark(pictures, pictures[0].size[0]))
