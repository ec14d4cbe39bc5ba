"""Every scheduler of diffusers on the pipeline road: plain backprop's gradient to the bit, or a refusal by name."""

from __future__ import annotations

from typing import Any

import diffusers as d
import diffusers.schedulers as all_schedulers
import pytest
import torch

import adjointdpm as ad
from adjointdpm.errors import NonFinite, NotDifferentiable
from tests.pipelines import tiny

Case = tuple[str, dict[str, Any], dict[str, Any]]
FEW: list[Case] = [
    ("DDIMScheduler", {"clip_sample": False}, {}),
    ("DDIMScheduler", {"clip_sample": True}, {"eta": 0.7}),
    ("DDPMScheduler", {}, {}),
    ("DEISMultistepScheduler", {}, {}),
    ("DPMSolverMultistepScheduler", {}, {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, {}),
    ("EulerAncestralDiscreteScheduler", {}, {}),
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}, {}),
    ("HeunDiscreteScheduler", {}, {}),
    ("LCMScheduler", {}, {}),
    ("PNDMScheduler", {}, {}),
    ("UniPCMultistepScheduler", {}, {}),
]
REST: list[Case] = [
    ("CMStochasticIterativeScheduler", {}, {}),
    ("CogVideoXDDIMScheduler", {}, {}),
    ("DDIMInverseScheduler", {}, {}),
    ("DDIMParallelScheduler", {}, {}),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, {}),
    ("DDIMScheduler", {"thresholding": True, "clip_sample": False}, {}),
    ("DDPMParallelScheduler", {}, {}),
    ("DPMSolverMultistepInverseScheduler", {}, {}),
    (
        "DPMSolverMultistepScheduler",
        {"solver_order": 3, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        {},
    ),
    ("DPMSolverSinglestepScheduler", {"lower_order_final": True}, {}),
    ("EDMDPMSolverMultistepScheduler", {}, {}),
    ("EDMEulerScheduler", {}, {}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, {}),
    ("IPNDMScheduler", {}, {}),
    ("KDPM2AncestralDiscreteScheduler", {}, {}),
    ("KDPM2DiscreteScheduler", {}, {}),
    ("LMSDiscreteScheduler", {}, {}),
    ("PNDMScheduler", {"skip_prk_steps": True}, {}),
    ("SASolverScheduler", {}, {}),
    ("TCDScheduler", {}, {"eta": 0.3}),
    ("UniPCMultistepScheduler", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, {}),
]


def run(pipe: Any, engine: str, call: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    def leaf(seed: int, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()

    embeds, negative = leaf(2, 1, tiny.TOKENS, tiny.WIDTH), leaf(3, 1, tiny.TOKENS, tiny.WIDTH)
    leaves = {"latents": leaf(1, 1, 4, 8, 8), "prompt_embeds": embeds, "negative_prompt_embeds": negative}
    torch.manual_seed(0)  # schedulers that draw from the global generator
    source = torch.Generator().manual_seed(4)
    gen = ad.differentiable(pipe, gradient=engine)
    out = gen(**leaves, num_inference_steps=4, guidance_scale=3.0, generator=source, **call)
    out.image_unclamped.square().mean().backward()
    return out.image.detach(), {name: tensor.grad for name, tensor in leaves.items()}


def check(case: Case) -> None:
    name, config, call = case
    pipe = tiny.stable_diffusion(getattr(all_schedulers, name)(**{**base(name), **config}))
    image, grads = run(pipe, "exact", call)
    expected_image, expected = run(pipe, "full", call)
    assert torch.equal(image, expected_image)
    for tensor, grad in expected.items():
        assert bool(torch.isfinite(grad).all())
        assert float(grad.norm()) > 0
        assert torch.equal(grads[tensor], grad), tensor


def base(name: str) -> dict[str, Any]:
    offset = {"steps_offset": 1} if "steps_offset" in getattr(all_schedulers, name)().config else {}
    return {"num_train_timesteps": 100, **offset}


def case_id(case: Case) -> str:
    return "-".join([case[0].removesuffix("Scheduler"), *(f"{k}={v}" for k, v in {**case[1], **case[2]}.items())])


@pytest.mark.parametrize("case", FEW, ids=case_id)
def test_gradient_is_plain_backprops(case: Case) -> None:
    check(case)


@pytest.mark.full
@pytest.mark.parametrize("case", REST, ids=case_id)
def test_gradient_is_plain_backprops_for_the_rest(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "name", ["VQDiffusionScheduler", "AmusedScheduler", "DiscreteDDIMScheduler", "BlockRefinementScheduler"]
)
def test_schedulers_that_sample_tokens_are_refused_at_once(name: str) -> None:
    needed = {"VQDiffusionScheduler": {"num_vec_classes": 8}, "AmusedScheduler": {"mask_token_id": 1}}
    cls = getattr(all_schedulers, name)
    with pytest.raises(NotDifferentiable, match=f"{name} cannot be differentiated"):
        ad.differentiable(tiny.stable_diffusion(cls(**needed.get(name, {}))))


@pytest.mark.parametrize(
    "name",
    [
        *("CogVideoXDPMScheduler", "FlowMatchEulerDiscreteScheduler", "KarrasVeScheduler", "RePaintScheduler"),
        *("SCMScheduler", "ScoreSdeVeScheduler", "ScoreSdeVpScheduler", "UnCLIPScheduler"),
    ],
)
def test_schedulers_that_do_not_fit_the_pipeline_are_named(name: str) -> None:
    pipe = tiny.stable_diffusion(getattr(all_schedulers, name)())
    with pytest.raises(NotDifferentiable, match=f"StableDiffusionPipeline cannot run {name}"):
        ad.differentiable(pipe)("a cat", num_inference_steps=4)


class Detaching(d.DDIMScheduler):
    """A scheduler of somebody's own that leaves the graph."""

    def step(self, model_output: Any, timestep: Any, sample: torch.Tensor, **kwargs: Any) -> Any:  # type: ignore[override]
        return (sample.detach() * 0.9,)


def test_an_unknown_scheduler_that_cuts_the_graph_is_refused_by_name() -> None:
    pipe = tiny.stable_diffusion(Detaching(num_train_timesteps=100, steps_offset=1))
    z = torch.zeros(1, 4, 8, 8, requires_grad=True)
    with pytest.raises(NotDifferentiable, match="Detaching in StableDiffusionPipeline cuts the graph"):
        ad.differentiable(pipe)("a cat", latents=z, num_inference_steps=2)


def test_an_image_of_nans_is_not_handed_on() -> None:
    config = {"num_train_timesteps": 100, "solver_type": "bh1", "use_karras_sigmas": True}  # NaN in diffusers 0.42
    with pytest.raises(NonFinite, match="UniPCMultistepScheduler"):
        ad.differentiable(tiny.stable_diffusion(d.UniPCMultistepScheduler(**config)))("a cat", num_inference_steps=4)


def test_one_step_and_the_number_of_calls() -> None:
    for scheduler, calls in ((tiny.ddim(), 1), (d.HeunDiscreteScheduler(num_train_timesteps=100), 1)):
        out = ad.differentiable(tiny.stable_diffusion(scheduler))("a cat", seed=0, num_inference_steps=1)
        assert out.stats.nfe == calls
    out = ad.differentiable(tiny.stable_diffusion(d.HeunDiscreteScheduler()))("a cat", seed=0, num_inference_steps=3)
    assert out.stats.nfe == 5
