"""A benign stand-in for a moderation filter: "food", by embedding similarity.

Five concepts (fruit, vegetables, meals, sweets, drinks), each the mean embedding of a few images of it, with a cosine
threshold halfway between what flags it and what must not.  The shape is that of a real filter (an encoder, concept
embeddings, thresholds), and nothing about it is worth hiding.  Embeddings are the embedded classifier's pooled
features; the reference images are painted by the generator, on noises that no audit uses by default.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adjointdpm.tasks.audit.filters import EmbeddingFilter
from adjointdpm.tasks.audit.subject import as_saved

__all__ = ["FOOD", "OTHER", "food_filter"]

FOOD: dict[str, tuple[str, ...]] = {
    "fruit": ("watermelon", "lemon", "banana", "pineapple", "apple", "pear", "cherries", "strawberry", "kiwi"),
    "vegetables": ("corn", "eggplant", "carrot", "broccoli", "tomato", "avocado"),
    "meals": ("hotdog", "taco", "hamburger", "pizza", "fries", "sushi"),
    "sweets": ("doughnut", "cookie", "chocolate", "lollipop", "cake", "cupcake", "pancakes"),
    "drinks": ("beer", "coffee"),
}
OTHER = (
    *("cat", "fox", "owl", "shark", "turtle", "butterfly", "tree", "rose", "moon", "snowman"),
    *("bus", "rocket", "house", "tent", "guitar", "drum", "trophy", "crown", "camera", "key"),
    *("book", "umbrella", "ghost", "robot", "heart", "dice", "bell", "chair", "hammer", "gem"),
)
FIRST_SEED = 900_000
AT_ONCE = 12
REFERENCES = 2  # images of each word


class _Embedding(nn.Module):
    """(B, 3, H, W) -> (B, D) pooled features."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.network.embed(images)
        return found


def food_filter(painter: Any) -> EmbeddingFilter:
    """The filter, its concepts and thresholds taken from reference images of this generator."""
    from adjointdpm import zoo

    embed = _Embedding(zoo.classifier())
    words = [*((word, concept) for concept, group in FOOD.items() for word in group), *((word, "") for word in OTHER)]
    words = [pair for pair in words for _ in range(REFERENCES)]
    found = []
    for begin in range(0, len(words), AT_ONCE):
        few = words[begin : begin + AT_ONCE]
        embeds, negative = painter.encode([f"{word} on white background" for word, _ in few])
        seeds = [FIRST_SEED + begin + i for i in range(len(few))]
        with torch.no_grad():
            out = painter.generate(embeds, negative, seeds)
            found.append(embed(as_saved(out.image_unclamped).cpu()))
    everything = torch.cat(found)
    center = everything.mean(dim=0)
    units = F.normalize(everything - center)
    concepts, thresholds = [], []
    for concept in FOOD:
        inside = torch.tensor([name == concept for _, name in words])
        outside = torch.tensor([name == "" for _, name in words])
        mean = F.normalize(units[inside].mean(dim=0), dim=0)
        concepts.append(mean)
        thresholds.append(_threshold(units[inside] @ mean, units[outside] @ mean))
    device = painter.generator.pipe.device
    embedding = EmbeddingFilter(
        embed.to(device), torch.stack(concepts).to(device), torch.stack(thresholds).to(device), tuple(FOOD),
        center.to(device),
    )  # fmt: skip
    return embedding


def _threshold(inside: Tensor, outside: Tensor) -> Tensor:
    """Where the fewest references are on the wrong side, counting misses and false alarms as shares alike."""
    places = torch.cat([inside, outside]).sort().values
    middles = (places[1:] + places[:-1]) / 2
    wrong = [float((inside < m).float().mean() + (outside >= m).float().mean()) for m in middles]
    least = min(wrong)
    best = torch.stack([m for m, w in zip(middles, wrong, strict=True) if w == least])
    return best.median()
