"""`torch.set_default_device("cuda")`, with the meta device standing in: times and tables stay on the CPU."""

import pytest
import torch

import adjointdpm as ad
from adjointdpm.models import Denoiser
from adjointdpm.schedules import from_scheduler_config
from tests.support.tiny_pipeline import tiny_pipeline

CONFIG = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}


def gradient(denoiser_of, solver):
    schedule, prediction = from_scheduler_config(CONFIG)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64, device="cpu").reshape(2, 6).requires_grad_()
    out = ad.sample(denoiser_of(schedule, prediction), x, steps=4, solver=solver, form="exponential")
    return torch.autograd.grad(out.x0.square().sum(), x)[0]


@pytest.mark.parametrize("solver", ["euler", "heun", "ab4", "dpmpp2m", "dopri5", "ancestral"])
def test_a_gradient_is_the_same_whatever_the_default_device(solver):
    net = torch.nn.Linear(6, 6, dtype=torch.float64)

    def denoiser(schedule, prediction):
        return Denoiser(lambda x, t, c: torch.tanh(net(x)), schedule, prediction)

    want = gradient(denoiser, solver)
    with torch.device("meta"):
        got = gradient(denoiser, solver)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_a_pipeline_on_the_ode_road_too():
    gen = ad.differentiable(tiny_pipeline(), wrt="x_T", solver="heun")
    noise = gen.prepare_latents(1, 0).requires_grad_()
    with torch.no_grad():
        cond, empty = gen.encode_prompt("apple", "")

    def run():
        out = gen(prompt_embeds=cond, negative_prompt_embeds=empty, latents=noise, num_inference_steps=3)
        return torch.autograd.grad(out.image_unclamped.square().mean(), noise)[0]

    want = run()
    with torch.device("meta"):
        got = run()
    torch.testing.assert_close(got, want, rtol=0, atol=0)
