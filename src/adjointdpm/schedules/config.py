"""A diffusers scheduler's config, read into a schedule: only the mathematics of the noise, never the object's state.

Settings that change the marginals are honoured, settings that only say where steps lie are returned by
`grid_options_from_config`, and settings under which the sampler is no longer the ODE (clipping, thresholding, learned
variance) are refused by name.  Betas are computed in float32, as diffusers does, so `alphas_cumprod` is equal bit for
bit to the scheduler's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.schedules.base import Schedule
from adjointdpm.schedules.discrete import VPDiscrete
from adjointdpm.schedules.flow import RectifiedFlow

__all__ = ["from_scheduler_config", "grid_options_from_config"]

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
REFUSED: dict[str, str] = {  # setting -> what to do about it
    "clip_sample": "the clipped sampler is not an ODE solver: set clip_sample=False, or use the pipeline road",
    "thresholding": "the thresholded sampler is not an ODE solver: set thresholding=False, or use the pipeline road",
    "use_dynamic_shifting": "the shift depends on the image size: pass RectifiedFlow(shift=...) yourself",
    "shift_terminal": "a stretched shift is not supported: pass RectifiedFlow(shift=...) yourself",
    "invert_sigmas": "an inverted clock is not supported",
    "stochastic_sampling": "noise is added at every step, which is not an ODE",
    "use_lu_lambdas": 'this spacing is not supported; choose one of make_grid\'s, such as spacing="logsnr"',
    "use_beta_sigmas": 'this spacing is not supported; choose one of make_grid\'s, such as spacing="logsnr"',
}
DPM_FAMILY = ("DPMSolver", "UniPC", "DEIS", "SASolver")
EULER_FAMILY = ("Euler", "Heun", "LMS", "KDPM2")


def from_scheduler_config(config: Mapping[str, Any] | Any) -> tuple[Schedule, str]:
    """The schedule and the network's prediction ("eps", "v", "x0" or "flow") of a diffusers scheduler.

    Args:
        config: a scheduler's config (a mapping, e.g. a loaded scheduler_config.json) or the scheduler itself.

    Raises:
        InvalidInput: a setting that this road cannot honour, by name.
    """
    settings = _settings(config)
    for name, reason in REFUSED.items():
        if settings.get(name):
            raise InvalidInput(f"scheduler config has {name}={settings[name]!r}: {reason}")
    if settings.get("variance_type") in ("learned", "learned_range"):
        raise InvalidInput(f"variance_type={settings['variance_type']!r}: split the network's output to its mean first")
    if "sigma_data" in settings:
        raise InvalidInput("an EDM scheduler preconditions its network: wrap it and pass schedules.EDM() yourself")
    if settings.get("use_flow_sigmas") or "beta_schedule" not in settings:
        shift = settings.get("shift", settings.get("flow_shift"))
        if shift is None:
            raise InvalidInput("config has neither beta_schedule nor shift: it is not a diffusers scheduler's config")
        prediction = PREDICTIONS.get(str(settings.get("prediction_type", "flow_prediction")), "flow")
        scale = float(settings.get("num_train_timesteps", 1000))
        return RectifiedFlow(shift=float(shift), time_scale=scale), prediction
    kind = settings.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise InvalidInput(f"prediction_type={kind!r} is unknown; known: {', '.join(PREDICTIONS)}")
    betas = _betas(settings)
    if settings.get("rescale_betas_zero_snr"):
        betas = _rescale_zero_terminal_snr(betas)
    return VPDiscrete(torch.cumprod(1.0 - betas, dim=0)), PREDICTIONS[kind]


def grid_options_from_config(config: Mapping[str, Any] | Any) -> dict[str, Any]:
    """Keyword arguments of `make_grid` that place the steps where this scheduler does: spacing, to_zero, ..."""
    settings = _settings(config)
    if "beta_schedule" not in settings or settings.get("use_flow_sigmas"):
        return {"spacing": "uniform", "to_zero": True}
    name = str(settings.get("_class_name", ""))
    final = settings.get("final_sigmas_type", "zero") == "zero" and bool(settings.get("set_alpha_to_one", True))
    if settings.get("use_karras_sigmas"):
        return {"spacing": "karras", "to_zero": final}
    if settings.get("use_exponential_sigmas"):
        return {"spacing": "logsnr", "to_zero": final}
    convention = "dpm" if name.startswith(DPM_FAMILY) else "euler" if name.startswith(EULER_FAMILY) else "ddim"
    return {
        "spacing": settings.get("timestep_spacing", "leading"),
        "to_zero": final,
        "steps_offset": int(settings.get("steps_offset", 0)),
        "convention": convention,
    }


def _settings(config: Mapping[str, Any] | Any) -> dict[str, Any]:
    if isinstance(config, Mapping):
        return dict(config)
    inner = getattr(config, "config", None)
    if not isinstance(inner, Mapping):
        raise InvalidInput(f"expected a diffusers scheduler or its config, got {type(config).__name__}")
    return {"_class_name": type(config).__name__, **{k: v for k, v in inner.items() if k != "_class_name"}}


def _betas(settings: Mapping[str, Any]) -> Tensor:
    """The T betas of a config, float32."""
    if settings.get("trained_betas") is not None:
        return torch.as_tensor(settings["trained_betas"], dtype=torch.float32, device="cpu")
    total, kind = int(settings["num_train_timesteps"]), settings["beta_schedule"]
    low, high = float(settings["beta_start"]), float(settings["beta_end"])
    if kind == "linear":
        return torch.linspace(low, high, total, dtype=torch.float32, device="cpu")
    if kind == "scaled_linear":
        return torch.linspace(low**0.5, high**0.5, total, dtype=torch.float32, device="cpu") ** 2
    if kind == "squaredcos_cap_v2":
        bar = [math.cos((i / total + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(total + 1)]
        return torch.tensor(
            [min(1 - bar[i + 1] / bar[i], 0.999) for i in range(total)], dtype=torch.float32, device="cpu"
        )
    raise InvalidInput(f"beta_schedule={kind!r} is unknown; known: linear, scaled_linear, squaredcos_cap_v2")


def _rescale_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Betas with alpha = 0 at the last step: sqrt(alphas_cumprod) shifted and scaled (Lin et al. 2023, algorithm 1)."""
    root = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    bar = ((root - last) * (first / (first - last))) ** 2
    return 1 - torch.cat([bar[:1], bar[1:] / bar[:-1]])
