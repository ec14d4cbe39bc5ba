"""A new last layer on a frozen trunk, trained on real emoji: composed drawings of the audited objects.

Also which objects EfficientNet recognises in generated images with the last layer that it came with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adjointdpm.runs import atomic_write, save_tensors
from adjointdpm.tasks.audit.subject import as_saved
from adjointdpm.zoo.compose import Sprites, compose
from adjointdpm.zoo.lexicon import STYLES
from adjointdpm.zoo.objects import OBJECTS as NAMES
from adjointdpm.zoo.prompts import scenes_of
from studies.audit.design import CHOICE_SEED, LEAST_CLASSES, MOST_CLASSES, RECOGNISED, prompt
from studies.audit.networks import IMAGENET, Merged

PER_WORD, EPOCHS, AT_ONCE = 150, 300, 25
SPRITES = Path(__file__).parents[2] / ".cache" / "zoo" / "sprites.npz"


def choose(painter: Any, folder: Path, noises: int) -> dict[str, Any]:
    """Of each object of ImageNet the share of generated images that EfficientNet calls by its name; kept in a file."""
    file = folder / "choice.json"
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    network, words = Merged().eval().requires_grad_(False), list(IMAGENET)
    shares = {}
    for k, word in enumerate(words):
        embeds, negative = painter.encode([prompt(word)] * noises)
        with torch.no_grad():
            out = painter.generate(embeds, negative, [CHOICE_SEED + noises * k + i for i in range(noises)])
            seen = network(as_saved(out.image_unclamped)).argmax(dim=1)
        shares[word] = float((seen == k).float().mean())
    able = sorted((w for w in words if shares[w] >= RECOGNISED), key=lambda w: -shares[w])
    result = {"shares": shares, "own_head": len(able) >= LEAST_CLASSES, "words": able[:MOST_CLASSES]}
    atomic_write(file, json.dumps(result, indent=1))
    return result


def train_head(trunk: Any, name: str, words: tuple[str, ...], folder: Path, per_word: int = PER_WORD) -> float:
    """Train and keep the last layer; returns its accuracy on drawings that it did not learn from."""
    file = folder / f"head_{name}.safetensors"
    accuracy_file = file.with_suffix(".json")
    if file.is_file() and accuracy_file.is_file():
        return float(json.loads(accuracy_file.read_text())["accuracy"])
    sprites = Sprites.load(SPRITES)
    features, labels = _features(trunk, words, per_word, sprites)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    split = len(order) * 4 // 5
    learn, test = order[:split], order[split:]
    head = nn.Linear(trunk.width, len(words))
    torch.manual_seed(0)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    scale = features[learn].std(dim=0).clamp_min(1e-4)  # the layer learns on features of one size each
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        F.cross_entropy(head(features[learn] / scale), labels[learn]).backward()
        optimizer.step()
    with torch.no_grad():
        head.weight.div_(scale)
        accuracy = float((head(features[test]).argmax(dim=1) == labels[test]).float().mean())
    save_tensors(file, dict(head.state_dict()), {"words": json.dumps(words)})
    atomic_write(accuracy_file, json.dumps({"accuracy": accuracy, "images": len(labels), "words": words}))
    return accuracy


def _features(trunk: Any, words: tuple[str, ...], per_word: int, sprites: Sprites) -> tuple[Tensor, Tensor]:
    """Features and labels of composed drawings: every style, any plain or patterned ground, light and place."""
    generator = torch.Generator().manual_seed(0)
    colors = ("white", "gray", "blue", "yellow", "pink")
    rows = [
        {"object": word, "style": STYLES[i % len(STYLES)], "kind": "plain", "color": colors[i // 3 % len(colors)]}
        for word in words
        for i in range(per_word)
    ]
    labels = torch.tensor([k for k, _ in enumerate(words) for _ in range(per_word)])
    found = []
    for begin in range(0, len(rows), AT_ONCE):
        images = compose(scenes_of(rows[begin : begin + AT_ONCE]), sprites, generator, jitter=True)
        noise = 0.02 * torch.randn(images.shape, generator=generator)
        with torch.no_grad():
            found.append(trunk((images + noise).clamp(0, 1)))
    assert all(word in NAMES for word in words)
    return torch.cat(found), labels
