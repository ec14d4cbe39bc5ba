"""Networks of other packages as plain functions of images (B, 3, H, W) in [0, 1].

- Foolbox (3.x): a `PyTorchModel` keeps the graph of a torch tensor; its bounds are put in place of [0, 1].
- Adversarial Robustness Toolbox (ART): `predict` takes numpy and has no gradient, so the torch module within a
  `PyTorchClassifier` is called, after ART's own preprocessing steps where those are torch code; others are refused.
- ONNX: converted to a torch module by onnx2torch (the `onnx` extra), which keeps the weights and gives gradients where
  each operator has one.
- A folder of a transformers image classifier (safetensors): resized and normalised as its preprocessor's config says.

Nothing of these packages is imported unless such a network is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput, NotDifferentiable

__all__ = ["adapted", "device_of", "from_folder", "from_onnx", "module_in"]

Function = Callable[[Tensor], Any]


def _package(network: Any) -> str:
    return type(network).__module__.partition(".")[0]


def adapted(network: Any, name: str) -> Function:
    """`network` as a function of images in [0, 1]; itself where it is a plain module or function."""
    package = _package(network)
    if package == "foolbox":
        return _foolbox(network, name)
    if package == "art":
        return _art(network, name)
    if not callable(network):
        raise InvalidInput(f"{name} is {type(network).__name__}; expected a torch module or a function of images")
    return network  # type: ignore[no-any-return]


def module_in(network: Any) -> nn.Module | None:
    """The torch module with the weights; None for a plain function."""
    if _package(network) == "foolbox":
        found = getattr(network, "_model", None)
        return found if isinstance(found, nn.Module) else _closure_module(found)
    if _package(network) == "art":
        found = getattr(network, "model", None)
        return found if isinstance(found, nn.Module) else None
    found = network if isinstance(network, nn.Module) else getattr(network, "module", None)
    return found if isinstance(found, nn.Module) else None


def device_of(network: Any) -> torch.device:
    """Where a network has its weights; the CPU for one without."""
    module = module_in(network)
    weights = None if module is None else next(module.parameters(), None)
    return torch.device("cpu") if weights is None else weights.device


def _closure_module(function: Any) -> nn.Module | None:
    """Foolbox keeps the module in the closure of a function."""
    cells = getattr(function, "__closure__", None) or ()
    return next((c.cell_contents for c in cells if isinstance(c.cell_contents, nn.Module)), None)


def _scaled(low: Any, high: Any) -> Callable[[Tensor], Tensor]:
    def scale(images: Tensor) -> Tensor:
        lower, upper = (torch.as_tensor(v, dtype=images.dtype, device=images.device) for v in (low, high))
        return images if bool((lower == 0).all()) and bool((upper == 1).all()) else lower + (upper - lower) * images

    return scale


def _foolbox(model: Any, name: str) -> Function:
    if "pytorch" not in type(model).__module__:
        raise InvalidInput(f"{name} is Foolbox's {type(model).__name__}; expected its PyTorchModel")
    scale = _scaled(model.bounds.lower, model.bounds.upper)
    return lambda images: model(scale(images))


def _art(classifier: Any, name: str) -> Function:
    module = getattr(classifier, "model", None)
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"{name} is ART's {type(classifier).__name__}; expected a PyTorchClassifier")
    steps = list(getattr(classifier, "preprocessing_operations", None) or [])
    for step in steps:
        if not any("PyTorch" in base.__name__ for base in type(step).__mro__):
            raise NotDifferentiable(
                f"{name}: ART's preprocessing step {type(step).__name__} is not torch code, so no gradient can be "
                "taken through it; use its PyTorch version, or audit the network without it"
            )
    clip = getattr(classifier, "clip_values", None)
    scale = _scaled(*clip) if clip is not None else lambda images: images

    def call(images: Tensor) -> Tensor:
        x = scale(images)
        for step in steps:
            x, _ = step.forward(x, None)
        found = module(x)
        return found[-1] if isinstance(found, (list, tuple)) else found  # type: ignore[no-any-return]

    return call


def from_onnx(path: Path) -> nn.Module:
    """The network in an ONNX file as a torch module; raises `InvalidInput` saying what is missing or why not."""
    if not path.is_file():
        raise InvalidInput(f"there is no network file {path}")
    try:
        import onnx2torch  # type: ignore[import-not-found]
    except ImportError as error:
        raise InvalidInput(
            f"{path} needs a package ({error}); install it: pip install 'adjointdpm[onnx]', or export the network as "
            "a torch module"
        ) from error
    try:
        module = onnx2torch.convert(str(path))
    except Exception as error:  # an operator that it does not know, a damaged file, …
        reason = " ".join(str(error).split())[:200]
        raise NotDifferentiable(
            f"{path} cannot be made differentiable: onnx2torch does not convert it ({type(error).__name__}: {reason})"
        ) from error
    assert isinstance(module, nn.Module)
    return module.eval()


class _FolderClassifier(nn.Module):
    """A transformers image classifier with the resizing and normalisation of its preprocessor's config."""

    def __init__(self, module: nn.Module, settings: dict[str, Any]) -> None:
        super().__init__()
        self.module = module
        size = settings.get("size") or {}
        edge = size if isinstance(size, int) else size.get("shortest_edge") or size.get("height")
        crop = settings.get("crop_size") if settings.get("do_center_crop") else None
        self.edge = int(edge) if settings.get("do_resize", True) and edge else None
        self.crop = int(crop["height"] if isinstance(crop, dict) else crop) if crop else None
        if "crop_pct" in settings and self.edge is not None and self.crop is None:  # as ConvNeXt's and ResNet's
            self.crop = self.edge
            self.edge = int(self.edge / settings["crop_pct"])
        normal = settings.get("do_normalize", True)
        mean, std = settings.get("image_mean"), settings.get("image_std")
        for key, value, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            values = torch.tensor(value if normal and value else [default] * 3).view(1, 3, 1, 1)
            self.register_buffer(key, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        if self.edge is not None:
            short = min(x.shape[-2:])
            sizes = [int(self.edge * side / short) for side in x.shape[-2:]]
            x = F.interpolate(x, size=sizes, mode="bicubic", align_corners=False, antialias=True)
        if self.crop is not None:
            top, left = ((side - self.crop) // 2 for side in x.shape[-2:])
            x = x[..., max(top, 0) : max(top, 0) + self.crop, max(left, 0) : max(left, 0) + self.crop]
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        logits: Tensor = self.module((x - mean) / std).logits
        return logits


def from_folder(folder: Path) -> nn.Module:
    """The transformers image classifier in `folder`: its weights as safetensors, no code of its own."""
    if not (folder / "config.json").is_file():
        raise InvalidInput(f"{folder} has no config.json; expected a folder of a transformers image classifier")
    if not list(folder.glob("*.safetensors")):
        raise InvalidInput(f"{folder} has no .safetensors weights; pickled ones are not opened")
    from transformers import AutoModelForImageClassification

    try:
        module = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{folder} does not load as a transformers image classifier: {error}") from error
    settings = folder / "preprocessor_config.json"
    found = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    return _FolderClassifier(module, found).eval()
