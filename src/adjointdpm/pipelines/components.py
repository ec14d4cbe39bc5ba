"""What the networks of a pipeline are, and whether a gradient can be taken through them as they stand.

No pipeline is known by name here.  A text encoder (a transformers model) runs once and keeps its graph; every other
network may run many times and is replayed.  The denoisers among them are those that are not autoencoders.
"""

from __future__ import annotations

from typing import Any

import torch

from adjointdpm.errors import InvalidInput, NotDifferentiable
from adjointdpm.pipelines.private import modules_of, schedulers_of

__all__ = [
    "autoencoder_of",
    "check_networks",
    "check_schedulers",
    "denoisers_of",
    "replayed_modules",
    "text_encoders_of",
]

DISCRETE = "it samples tokens, a step that has no derivative"
WITHOUT_DERIVATIVE = {
    "AmusedScheduler": DISCRETE,
    "BlockRefinementScheduler": DISCRETE,
    "DiscreteDDIMScheduler": DISCRETE,
    "EntropyBoundScheduler": DISCRETE,
    "VQDiffusionScheduler": DISCRETE,
}
WORKING = "DDIM, DDPM, DPMSolverMultistep, UniPC, Euler, EulerAncestral, Heun, PNDM, LCM, DEIS"


def _is_transformers(module: torch.nn.Module) -> bool:
    return any(cls.__module__.partition(".")[0] == "transformers" for cls in type(module).__mro__)


def _is_checker(name: str) -> bool:
    return name.rpartition(".")[2] in ("safety_checker", "watermark", "watermarker")


def replayed_modules(pipe: Any) -> dict[str, torch.nn.Module]:
    """The networks that are replayed, by component name: all but text encoders and checkers."""
    return {n: m for n, m in modules_of(pipe) if not _is_transformers(m) and not _is_checker(n)}


def denoisers_of(pipe: Any) -> dict[str, torch.nn.Module]:
    """The networks called at every step (unet, transformer, controlnet, prior, …), by component name."""
    return {name: module for name, module in replayed_modules(pipe).items() if not _is_autoencoder(module)}


def _is_autoencoder(module: torch.nn.Module) -> bool:
    return hasattr(module, "decode")


def autoencoder_of(pipe: Any) -> Any:
    """The pipeline's autoencoder, or None (pixel space)."""
    return next((module for module in replayed_modules(pipe).values() if _is_autoencoder(module)), None)


def text_encoders_of(pipe: Any) -> dict[str, Any]:
    """The text encoders by component name."""
    return {n: m for n, m in modules_of(pipe) if _is_transformers(m) and not _is_checker(n)}


def check_schedulers(pipe: Any) -> None:
    """Refuse by class name a scheduler that has no derivative.

    Raises:
        NotDifferentiable: with the reason and schedulers that work.
    """
    for scheduler in schedulers_of(pipe).values():
        reason = WITHOUT_DERIVATIVE.get(type(scheduler).__name__)
        if reason is not None:
            raise NotDifferentiable(f"{type(scheduler).__name__} cannot be differentiated: {reason}; try {WORKING}")


def check_networks(pipe: Any) -> None:
    """Refuse networks whose calls cannot be run again with the same result, or that hold no weights to run with.

    Raises:
        InvalidInput: meta, quantised or offloaded weights; active dropout or batch norm in train mode.
    """
    for name, module in modules_of(pipe):
        if _is_checker(name):
            continue
        quantised = getattr(module, "hf_quantizer", None) is not None or getattr(module, "is_quantized", False)
        for part, owner in module.named_modules():
            path = f"{name}.{part}" if part else name
            for key, parameter in vars(owner)["_parameters"].items():
                if parameter is not None:
                    _check_weight(f"{path}.{key}", parameter, quantised)
            _check_offload(path, name, vars(owner))
            if owner.training:
                _check_train_mode(path, name, owner)


def _check_weight(path: str, parameter: torch.nn.Parameter, quantised: bool) -> None:
    if parameter.is_meta:
        raise InvalidInput(
            f"weight {path} is on the meta device: it has no values (an offloaded or half-loaded model); "
            "load the pipeline without offloading and move it with pipe.to(device)"
        )
    if quantised or not (parameter.is_floating_point() or parameter.is_complex()):
        raise InvalidInput(
            f"weight {path} is quantised ({parameter.dtype}), which gives no exact gradient; "
            "load the pipeline in float32, bfloat16 or float16"
        )


def _check_offload(path: str, name: str, attributes: dict[str, Any]) -> None:
    hook = attributes.get("_hf_hook")
    if hook is not None and (getattr(hook, "offload", False) or "Offload" in type(hook).__name__):
        raise InvalidInput(
            f"{path} is offloaded ({type(hook).__name__}): its weights move while "
            "it runs; call pipe.remove_all_hooks() and pipe.to(device) first"
        )
    registry = attributes.get("_diffusers_hook")
    if registry is not None and any("offload" in key for key in getattr(registry, "hooks", {})):
        raise InvalidInput(
            f"{name} uses group offloading: its weights move while it runs; load the pipeline without it"
        )


def _check_train_mode(path: str, name: str, module: torch.nn.Module) -> None:
    rate = module.p if isinstance(module, torch.nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0.0)
    if isinstance(rate, float) and rate > 0:
        raise InvalidInput(
            f"{path} is in train mode with dropout {rate}: images would be random; call pipe.{name}.eval()"
        )
    if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
        raise InvalidInput(f"{path} is a batch norm in train mode: it changes at every call; call pipe.{name}.eval()")
