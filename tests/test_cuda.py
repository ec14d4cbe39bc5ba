"""On a CUDA device, where there is one: the same gradients, a budget that is kept, a plan that comes true."""

import pytest
import torch

import adjointdpm as ad
from adjointdpm.gradients.exact import Exact
from adjointdpm.models import Denoiser
from adjointdpm.numerics import full_precision, relative_error
from adjointdpm.schedules import from_scheduler_config
from tests.support.tiny_pipeline import tiny_pipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = "cuda"


@pytest.fixture(autouse=True)
def _full_precision():
    with full_precision():
        yield


def gradients(gen, steps=6):
    noise = gen.prepare_latents(1, 0).requires_grad_()
    with torch.no_grad():
        cond, empty = gen.encode_prompt("apple", "")
    cond = cond.detach().clone().requires_grad_()
    out = gen(prompt_embeds=cond, negative_prompt_embeds=empty, latents=noise, num_inference_steps=steps)
    out.image_unclamped.square().mean().backward()
    return noise.grad, cond.grad


@pytest.mark.parametrize("road", [{}, {"solver": "ab4"}, {"solver": "heun"}])
@pytest.mark.parametrize("memory", [None, "auto"])
def test_exact_is_plain_backprop(road, memory):
    pipe = tiny_pipeline().to(DEVICE)
    gen = ad.differentiable(pipe, wrt=("x_T", "cond"), **road)
    for got, want in zip(gradients(gen.with_(memory=memory)), gradients(gen.with_(gradient="full")), strict=True):
        assert got.device.type == "cuda"
        assert relative_error(got, want) < 1e-5


@pytest.mark.parametrize("wrt", ["weights", "x_T"])
def test_a_gradient_on_the_device_is_that_on_the_cpu(wrt):
    found = []
    for device in ("cpu", DEVICE):
        pipe = tiny_pipeline().to(device, torch.float64)
        gen = ad.differentiable(pipe, wrt=wrt)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
        leaf = noise.requires_grad_(wrt == "x_T")
        gen("apple", latents=leaf, num_inference_steps=4).image_unclamped.square().mean().backward()
        grads = [leaf.grad] if wrt == "x_T" else [p.grad for p in pipe.unet.parameters() if p.grad is not None]
        found.append(torch.cat([g.flatten().cpu() for g in grads]))
    assert relative_error(found[1], found[0]) < 1e-6  # diffusers' embedding of the time is float32


def test_random_numbers_of_the_device_are_replayed():
    """Dropout in training mode draws from the device's generator: a replayed call must draw the same."""
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 64)).to(DEVICE)
    found = []
    for replayed in (False, True):
        torch.manual_seed(3)
        x = leaf = torch.linspace(-1, 1, 128, device=DEVICE).reshape(2, 64).requires_grad_()
        if replayed:
            with ad.replay(net):
                for _ in range(4):
                    x = net(x)
        else:
            for _ in range(4):
                x = net(x)
        x.square().sum().backward()
        found.append(leaf.grad)
        net.zero_grad()
    assert relative_error(found[1], found[0]) < 1e-6


def wide_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=64, block_out_channels=(64, 128), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=64, attention_head_dim=8,
    ).to(DEVICE).requires_grad_(False)  # fmt: skip


def test_a_budget_is_kept():
    unet = wide_unet()
    schedule, prediction = from_scheduler_config(tiny_pipeline().scheduler)
    denoiser = Denoiser(lambda x, t, c: unet(x, t, c, return_dict=False)[0], schedule, prediction)
    cond = torch.randn(1, 7, 64, device=DEVICE)

    def peak(memory):
        x = torch.randn(1, 4, 64, 64, device=DEVICE).requires_grad_()
        for _ in range(2):  # the first measures the call
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            out = ad.sample(denoiser, x, cond=cond, steps=8, gradient=Exact(memory=memory))
            out.x0.square().mean().backward()
        return torch.cuda.max_memory_allocated()

    one, many = peak(None), peak("60GB")
    assert many > 1.5 * one  # graphs were kept
    between = (one + many) / 2
    assert peak(between) <= 1.02 * between


def test_a_plan_comes_true():
    pipe = tiny_pipeline().to(DEVICE)
    gen = ad.differentiable(pipe, wrt="x_T")
    planned = ad.plan(gen, 12, prompt="apple")

    def peak(settings):
        gen_ = gen.with_(**settings)
        for _ in range(2):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            out = gen_("apple", latents=gen_.prepare_latents(1, 0).requires_grad_(), num_inference_steps=12)
            out.image_unclamped.square().mean().backward()
        return torch.cuda.max_memory_allocated()

    for engine, settings in (("exact", {}), ("full", {"memory": "60GB"})):
        assert planned[engine].peak_bytes == pytest.approx(peak(settings), rel=0.1)
