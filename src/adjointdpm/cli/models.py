"""`--model`, `--device`, `--dtype` -> a frozen diffusers pipeline, or one clear error before any weight is read.

Only safetensors are loaded: a pickled checkpoint can run code when it is opened, so a folder that has nothing else is
refused with the way to convert it.  Custom pipeline code is never executed.  Every weight file of a local folder is
opened first (header and length, no tensors), so that a truncated download is named instead of failing half-way.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.errors import InvalidInput

if TYPE_CHECKING:
    import torch

EMBEDDED = "embedded"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
DTYPES = ("float32", "float16", "bfloat16", "float64")
WEIGHTLESS = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3", "feature_extractor", "image_processor")
CONVERT = (
    "Convert it once, where you trust the file: "
    "DiffusionPipeline.from_pretrained(FOLDER, use_safetensors=False).save_pretrained(NEW_FOLDER), "
    "or StableDiffusionPipeline.from_single_file(FILE).save_pretrained(NEW_FOLDER) for a single file."
)


@dataclass(frozen=True)
class ModelChoice:
    """The four options that every command with a model has."""

    model: str | None = None
    variant: str | None = None
    device: str = "auto"
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """What records call the model."""
        return self.model or EMBEDDED

    def load(self) -> Any:
        return load_pipeline(self.model, device=self.device, dtype=self.dtype, variant=self.variant)


def load_pipeline(
    model: str | None = None, *, device: str = "auto", dtype: str = "float32", variant: str | None = None
) -> Any:
    """The diffusers pipeline that the options name: on `device`, in `dtype`, in eval mode, all weights frozen.

    Args:
        model: folder with a `model_index.json`, hub id, or None for the embedded model.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: one of `DTYPES`, the number format of all networks.
        variant: weight files `*.VARIANT.safetensors`.

    Raises:
        InvalidInput: no such folder, device, dtype or variant; no model in the folder; pickled, truncated or corrupted
            weights; a hub id that cannot be reached.
    """
    place, number = torch_device(device), torch_dtype(dtype)
    quiet_libraries()
    if model is None:
        from adjointdpm import zoo

        pipe = zoo.emoji()
    else:
        folder = local_folder(model)
        if folder is not None:
            check_folder(folder, variant)
        pipe = _from_pretrained(model if folder is None else str(folder), number, variant, is_local=folder is not None)
    pipe.to(place, number)
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if hasattr(component, "parameters"):
            component.eval()
            component.requires_grad_(False)
    return pipe


def torch_device(name: str) -> torch.device:
    """`--device` as a torch device that is really there."""
    import torch

    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        place = os.environ.get("LOCAL_RANK")  # of `accelerate launch`: a device for each process
        return torch.device("cuda" if place is None else f"cuda:{int(place) % torch.cuda.device_count()}")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type not in present:
        raise InvalidInput(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps.")
    if (device.index or 0) >= present[device.type]:
        found = ", ".join(f"{kind} ({count})" for kind, count in present.items() if count)
        raise InvalidInput(f"--device {name}: this machine and this build of torch {torch.__version__} have {found}.")
    return device


def torch_dtype(name: str) -> torch.dtype:
    import torch

    if name not in DTYPES:
        raise InvalidInput(f"--dtype {name}: expected one of {', '.join(DTYPES)}.")
    found: torch.dtype = getattr(torch, name)
    return found


def quiet_libraries() -> None:
    """Bars and advice of diffusers and transformers off: the shell has its own, and machines read our stdout."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def local_folder(model: str) -> Path | None:
    """The folder that `model` names, or None where it can only be a hub id."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise InvalidInput(
            f"--model {model} is a file; expected a diffusers folder with a model_index.json, or a hub id. {CONVERT}"
        )
    if not HUB_ID.fullmatch(model) or ".." in model:
        raise InvalidInput(f"--model {model}: there is no such folder, and it is not a hub id such as owner/name.")
    return None


def check_folder(folder: Path, variant: str | None = None) -> None:
    """Refuse a folder that is no pipeline, lacks weights, or holds pickled or damaged ones; reads headers only."""
    index = folder / "model_index.json"
    if not index.is_file():
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise InvalidInput(f"{folder} has no model_index.json, so it is not a diffusers pipeline; it holds: {inside}.")
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        listed = {name: part for name, part in parts.items() if not name.startswith("_") and isinstance(part, list)}
    except (ValueError, AttributeError) as error:
        raise InvalidInput(f"{index} is not a pipeline's index: {error}.") from error
    _check_class(index, parts.get("_class_name"))
    for name, part in listed.items():
        if any(part):  # [null, null] marks a component left out
            _check_component(folder / name, variant)


def _check_class(index: Path, name: object) -> None:
    import diffusers

    if not isinstance(name, str) or not hasattr(diffusers, name):
        raise InvalidInput(
            f"{index} names the pipeline class {name!r}, which diffusers {diffusers.__version__} does not have; "
            "pipelines with code of their own are not run."
        )


def _check_component(folder: Path, variant: str | None) -> None:
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is missing, though model_index.json lists it; the folder is incomplete.")
    if folder.name in WEIGHTLESS:
        return
    files = sorted(folder.glob("*.safetensors"))
    suffix = f".{variant}" if variant else ""
    wanted = [file for file in files if file.stem.endswith(suffix)] if variant else files
    pickled = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLED]
    if not files and pickled:
        raise InvalidInput(f"{folder} has pickled weights only ({pickled[0]}), which are not opened. {CONVERT}")
    if not files:
        raise InvalidInput(f"{folder} has no .safetensors file; the weights of this model are missing.")
    if not wanted:
        raise InvalidInput(f"{folder} has no weights of the variant {variant!r}; it has {files[0].name}.")
    plain = [file for file in files if file.stem in ("model", "diffusion_pytorch_model") or "-of-" in file.stem]
    if not variant and not plain:
        guess = files[0].stem.rpartition(".")[2]
        raise InvalidInput(f"{folder} has {files[0].name} only; say --variant {guess}.")
    for file in wanted if variant else plain:
        check_weights(file)


def check_weights(file: Path) -> None:
    """Open a safetensors file (header and length, no tensor) and name it if that fails."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        size = os.path.getsize(file) if file.exists() else 0
        raise InvalidInput(
            f"{file} ({size} bytes) is truncated or corrupted: {error}. Fetch it again or restore it from a copy."
        ) from error


def _from_pretrained(model: str, dtype: torch.dtype, variant: str | None, is_local: bool) -> Any:
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(model, use_safetensors=True, dtype=dtype, variant=variant)
    except (OSError, ValueError, RuntimeError) as error:  # the hub's own errors are OSErrors
        reason = " ".join(str(error).split())
        if is_local:
            raise InvalidInput(f"--model {model} could not be loaded: {reason}") from error
        raise InvalidInput(f"--model {model}: {_why_not_from_hub(error, reason)}") from error


def _why_not_from_hub(error: Exception, reason: str) -> str:
    """One sentence for each way in which the hub says no; the names are those of huggingface_hub's errors."""
    names = {
        kind.__name__ for link in (error, error.__cause__, error.__context__) if link for kind in type(link).__mro__
    }
    if "GatedRepoError" in names:
        return "this model asks you to accept its licence on the hub and to log in first (hf auth login)."
    if "RepositoryNotFoundError" in names:
        return "there is no such folder here and no such model on the hub (or it is private: hf auth login)."
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return (
            "there is no such folder here, it is not in the hub's local cache, and HF_HUB_OFFLINE is set. "
            "Give a folder, or unset HF_HUB_OFFLINE to download it."
        )
    if "safetensors" in reason:
        return f"it has no safetensors weights, and pickled ones are not opened. {CONVERT} ({reason})"
    return f"there is no such folder here, and the hub could not be reached or refused: {reason}"
