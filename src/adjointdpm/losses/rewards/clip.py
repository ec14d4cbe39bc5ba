"""Rewards of the CLIP family: how well an image fits its prompt, as the cosine of two embeddings.

CLIP, PickScore and HPS score by this cosine.  `ClipSimilarity` takes the user's own transformers model; the picture is
resized and normalised by differentiable operations, with the size, mean and spread that the model's processor has.
For another architecture give its two encoders to `EmbeddingSimilarity`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["ClipSimilarity", "EmbeddingSimilarity", "load_clip"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class EmbeddingSimilarity:
    """`reward(images, prompts)`: the cosine of `of_images(images)` and `of_texts(prompts)`, both (B, D); returns (B,).

    Text embeddings are kept, since a run asks for the same prompts again and again.
    """

    def __init__(self, of_images: Callable[[Tensor], Tensor], of_texts: Callable[[list[str]], Tensor]) -> None:
        self.of_images, self.of_texts = of_images, of_texts
        self._known: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            with torch.no_grad():
                self._known |= dict(zip(new, self.of_texts(new), strict=True))
        texts = torch.stack([self._known[prompt] for prompt in prompts])
        pictures = self.of_images(images)
        if pictures.shape != texts.shape:
            raise InvalidInput(
                f"embeddings of images have shape {tuple(pictures.shape)}, those of prompts {tuple(texts.shape)}; "
                "expected the same (B, D)"
            )
        return F.cosine_similarity(pictures, texts.to(pictures), dim=1)


class ClipSimilarity(EmbeddingSimilarity):
    """`EmbeddingSimilarity` of a transformers `CLIPModel` (or PickScore, which is one) and its tokenizer.

    Args:
        model: has `get_image_features`, `get_text_features` and `config.vision_config.image_size`; is frozen here.
        tokenizer: as `CLIPTokenizer`.
        mean, std: normalisation of the three channels.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self.size = int(model.config.vision_config.image_size)
        self.mean, self.std = (torch.tensor(list(v)).view(1, 3, 1, 1) for v in (mean, std))
        super().__init__(self.embed_images, self.embed_texts)

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, D), not normalised, of images (B, 3, H, W) in [0, 1]: shorter side to the model's size, centre cut."""
        self.model.to(images.device)
        shorter = min(images.shape[-2:])
        if shorter != self.size:
            height, width = (max(self.size, side * self.size // shorter) for side in images.shape[-2:])
            smaller = shorter > self.size  # antialiasing is for making smaller
            images = F.interpolate(
                images, (height, width), mode="bicubic", align_corners=False, antialias=smaller
            ).clamp(0, 1)
        top, left = ((side - self.size) // 2 for side in images.shape[-2:])
        images = images[..., top : top + self.size, left : left + self.size]
        pixels = (images - self.mean.to(images)) / self.std.to(images)
        return _features(self.model.get_image_features(pixel_values=pixels.to(self.model.dtype)))

    def embed_texts(self, prompts: list[str]) -> Tensor:
        coded = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        device = next(self.model.parameters()).device
        return _features(
            self.model.get_text_features(
                input_ids=coded.input_ids.to(device), attention_mask=coded.attention_mask.to(device)
            )
        )


def load_clip(name: str) -> ClipSimilarity:
    """The model in a folder, or with an id of the model hub; safetensors only.  Raises `InvalidInput`."""
    try:
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

        model = CLIPModel.from_pretrained(name, use_safetensors=True)
        tokenizer = CLIPTokenizerFast.from_pretrained(name)
        processor = CLIPImageProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidInput(f"no CLIP model could be loaded from {name!r}: {reason}") from error
    return ClipSimilarity(model, tokenizer, processor.image_mean, processor.image_std)


def _features(output: Any) -> Tensor:
    """A tensor, or the pooled output that newer versions of transformers wrap it in."""
    return output if isinstance(output, Tensor) else output.pooler_output  # type: ignore[no-any-return]
