"""Reading diffusers' scheduler configs: the same alphas bit for bit, the prediction type, refusals by name."""

from typing import Any

import diffusers
import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.schedules import RectifiedFlow, VPDiscrete, from_scheduler_config, grid_options_from_config

NAMES = [
    "DDIM", "DDPM", "PNDM", "DPMSolverMultistep", "DPMSolverSinglestep", "EulerDiscrete", "EulerAncestralDiscrete",
    "HeunDiscrete", "UniPCMultistep", "DEISMultistep", "KDPM2Discrete", "LMSDiscrete", "LCM",
]  # fmt: skip
BETAS: list[dict[str, Any]] = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400},
    {"trained_betas": [0.01, 0.02, 0.05, 0.1]},
]


def scheduler(name: str, **settings: Any) -> Any:
    clip = {"clip_sample": False} if name in ("DDIM", "DDPM", "HeunDiscrete", "LCM") else {}
    return getattr(diffusers, f"{name}Scheduler")(**clip, **settings)


ALL_BETAS = [("DDIM", b) for b in BETAS] + [("DPMSolverMultistep", b) for b in BETAS[1:]]


@pytest.mark.parametrize(("name", "betas"), [*ALL_BETAS, *[(n, BETAS[1]) for n in NAMES if n not in dict(ALL_BETAS)]])
def test_alphas_are_the_schedulers_own(name: str, betas: dict[str, Any]) -> None:
    theirs = scheduler(name, **betas)
    schedule, prediction = from_scheduler_config(theirs)
    assert isinstance(schedule, VPDiscrete)
    assert prediction == "eps"
    assert torch.equal(torch.as_tensor(schedule.alphas_cumprod), theirs.alphas_cumprod.double())
    again, _ = from_scheduler_config(dict(theirs.config))
    assert torch.equal(torch.as_tensor(again.alphas_cumprod), theirs.alphas_cumprod.double())  # type: ignore[attr-defined]


def test_zero_terminal_snr() -> None:
    theirs = scheduler("DDIM", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    schedule, prediction = from_scheduler_config(theirs)
    assert prediction == "v"
    assert torch.equal(torch.as_tensor(schedule.alphas_cumprod), theirs.alphas_cumprod.double())  # type: ignore[attr-defined]
    assert float(schedule.alpha(999.0)) == 0


@pytest.mark.parametrize(("theirs", "ours"), [("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")])
def test_prediction_types(theirs: str, ours: str) -> None:
    assert from_scheduler_config(scheduler("DDIM", prediction_type=theirs))[1] == ours


def test_flow() -> None:
    schedule, prediction = from_scheduler_config(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert schedule == RectifiedFlow(shift=3.0, time_scale=1000.0)
    assert prediction == "flow"
    uni = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0)
    assert from_scheduler_config(uni) == (RectifiedFlow(shift=5.0, time_scale=1000.0), "flow")
    assert grid_options_from_config(uni) == {"spacing": "uniform", "to_zero": True}


def test_karras_and_exponential_sigmas_are_spacings() -> None:
    assert grid_options_from_config(scheduler("EulerDiscrete", use_karras_sigmas=True))["spacing"] == "karras"
    assert grid_options_from_config(scheduler("EulerDiscrete", use_exponential_sigmas=True))["spacing"] == "logsnr"


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (diffusers.DDIMScheduler(), "clip_sample"),
        (diffusers.DDIMScheduler(clip_sample=False, thresholding=True), "thresholding"),
        (diffusers.DPMSolverMultistepScheduler(variance_type="learned_range"), "variance_type"),
        (diffusers.DPMSolverMultistepScheduler(use_lu_lambdas=True), "use_lu_lambdas"),
        (diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "use_dynamic_shifting"),
        (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling"),
        (diffusers.EDMEulerScheduler(), "EDM"),
        (diffusers.DDPMScheduler(beta_schedule="sigmoid", clip_sample=False), "sigmoid"),
        ({"hidden_size": 8}, "beta_schedule"),
        ({"beta_schedule": "linear", "prediction_type": "score"}, "score"),
        (7, "int"),
    ],
)
def test_refusals_name_the_setting(config: Any, names: str) -> None:
    with pytest.raises(InvalidInput, match=names):
        from_scheduler_config(config)
