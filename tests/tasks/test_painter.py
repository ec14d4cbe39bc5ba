"""The painter of tasks: noise by seed, parts, counts, number formats."""

import diffusers
import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.painter import LIVE, Painter
from adjointdpm.tasks.settings import TaskConfig
from tests.pipelines import tiny
from tests.support.tiny_pipeline import tiny_pipeline


@pytest.fixture(scope="module")
def gen():
    return differentiable(tiny_pipeline())


def painter_of(gen, wrt=(), **changes):
    return Painter(gen, TaskConfig(**{"out": "unused", "steps": 2} | changes), wrt)


def test_seeds_are_the_latents_of_their_noise(gen):
    painter = painter_of(gen)
    embeds, negative = painter.encode(["cat", "dog"])
    noise = painter.noise([5, 9])
    assert noise.shape == (2, 4, 8, 8)
    assert torch.equal(noise[1:], painter.noise([9]))
    assert torch.equal(painter.paint(embeds, negative, [5, 9]).image, painter.paint(embeds, negative, noise).image)


def test_parts_change_nothing_that_can_be_seen(gen):
    together, single = painter_of(gen), painter_of(gen, batch_size=1)
    embeds, negative = together.encode(["cat", "dog", "star"])
    whole, parts = (p.paint(embeds, negative, [1, 2, 3]) for p in (together, single))
    assert torch.allclose(whole.image, parts.image, atol=1e-5)
    assert (together.network_calls, single.network_calls) == (2, 6)
    assert together.vjps == 0


def test_gradients_go_where_wrt_says_and_are_counted(gen):
    painter = painter_of(gen, wrt=("x_T",))
    embeds, negative = painter.encode(["cat"])
    noise = painter.noise([1]).requires_grad_()
    rows = embeds.requires_grad_()
    for _ in range(3):
        painter.backward(painter.generate(rows, negative, noise).image_unclamped.mean())
    assert noise.grad is not None and bool(noise.grad.any())
    assert rows.grad is None
    assert painter.network_calls == 6
    assert painter.vjps == 3 * (2 + 1)  # two denoiser calls and the decoder
    painter._live.extend(painter._live[:1] * LIVE)
    counted = painter.vjps
    painter.paint(embeds.detach(), negative, [1])
    assert painter.vjps == counted  # what is folded is not lost


SAMPLERS = {
    "euler_ancestral": lambda: {"scheduler": diffusers.EulerAncestralDiscreteScheduler(num_train_timesteps=100)},
    "ddpm": lambda: {"scheduler": diffusers.DDPMScheduler(num_train_timesteps=100, clip_sample=False)},
    "lcm": lambda: {"scheduler": diffusers.LCMScheduler(num_train_timesteps=100)},
    "ancestral of the ODE road": lambda: {"solver": "ancestral"},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_noise_within_the_steps_is_the_same_at_every_call_and_in_every_batch(sampler):
    """Chance must not pass for the effect of what is optimised."""
    options = SAMPLERS[sampler]()
    pipe = tiny.stable_diffusion(options.pop("scheduler", None) or tiny.ddim())
    painter = painter_of(differentiable(pipe, **options), steps=3)
    embeds, negative = painter.encode(["a cat", "a dog"])
    before = torch.get_rng_state()
    pair = painter.paint(embeds, negative, [0, 1]).image
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)  # the global random state does not matter
    assert torch.equal(painter.paint(embeds, negative, [0, 1]).image, pair)
    alone = painter.paint(embeds[1:], negative[1:], [1]).image
    torch.testing.assert_close(alone, pair[1:], atol=1e-5, rtol=0)
    assert not torch.allclose(pair[0], pair[1], atol=1e-3)


def test_a_pipeline_in_float16_has_the_loss_scale_and_learns_rows_in_float32():
    painter = painter_of(differentiable(tiny_pipeline().to(torch.float16)), wrt=("x_T", "cond"))
    embeds, negative = painter.encode(["cat"])
    assert (embeds.dtype, painter.precision.scale) == (torch.float32, 2.0**16)
    noise, rows = painter.noise([1]).requires_grad_(), embeds.requires_grad_()
    out = painter.generate(rows, negative, noise)
    assert out.image.dtype == torch.float32
    painter.backward(out.image_unclamped.mean() * 1e-5)
    painter.precision.unscale([noise, rows])
    for tensor in (noise, rows):
        assert tensor.grad.dtype == torch.float32
        assert float((tensor.grad != 0).float().mean()) > 0.9


@pytest.mark.parametrize("mode", ["bf16", "fp16"])
def test_mixed_precision_is_that_of_plain_backpropagation_and_its_gradient_is_float32(gen, mode):
    painters = [
        painter_of(gen, ("x_T",), mixed_precision=mode),
        painter_of(gen.with_(gradient="full"), ("x_T",), mixed_precision=mode),
        painter_of(gen, ("x_T",)),
    ]
    embeds, negative = painters[0].encode(["cat"])
    found = []
    for painter in painters:
        noise = painter.noise([1]).requires_grad_()
        out = painter.generate(embeds, negative, noise)
        assert out.image.dtype == out.image_unclamped.dtype == torch.float32
        painter.backward(out.image_unclamped.square().mean())
        painter.precision.unscale([noise])
        assert noise.grad.dtype == torch.float32
        found.append(noise.grad)
    assert torch.equal(found[0], found[1])
    assert 0 < float((found[0] - found[2]).norm() / found[2].norm()) < 0.2


def test_float16_alone_would_lose_a_small_gradient_that_the_scale_keeps(gen):
    """The gradient of a loss of 1e-6 of its usual size: it vanishes in float16 unless it is scaled."""
    painter = painter_of(gen, ("x_T",), mixed_precision="fp16")
    embeds, negative = painter.encode(["cat"])
    norms = []
    for scaled in (False, True):
        noise = painter.noise([1]).requires_grad_()
        loss = 1e-6 * painter.generate(embeds, negative, noise).image_unclamped.square().mean()
        if scaled:
            painter.backward(loss)
            painter.precision.unscale([noise])
        else:
            loss.backward()
        norms.append(float(noise.grad.norm()))
    reference = painter_of(gen, ("x_T",))
    noise = painter.noise([1]).requires_grad_()
    (1e-6 * reference.generate(embeds, negative, noise).image_unclamped.square().mean()).backward()
    true = float(noise.grad.norm())
    assert abs(norms[1] / true - 1) < 0.05
    assert abs(norms[0] / true - 1) > 0.2


@pytest.mark.parametrize("make", [tiny.stable_diffusion_xl, tiny.stable_diffusion_3])
def test_pipelines_that_take_more_of_a_prompt_than_its_rows(make):
    gen = differentiable(make())
    painter = painter_of(gen, wrt=("x_T",))
    prompts = ["a red apple", "a blue cat"]
    embeds, negative = painter.encode(prompts)
    noise = painter.noise([1, 2])
    ours = painter.paint(torch.stack([*embeds]), negative[:1].expand_as(negative), noise).image
    with torch.no_grad():
        theirs = gen(prompts, negative_prompt=[""] * 2, latents=noise, num_inference_steps=2, guidance_scale=3.0).image
    assert torch.allclose(ours, theirs.float(), atol=1e-5)
    swapped = painter.paint(embeds[[1, 0]], negative, noise).image
    assert not torch.allclose(ours, swapped, atol=1e-5)
    leaf = noise.clone().requires_grad_()
    painter.backward(painter.generate(embeds, negative, leaf).image_unclamped.square().mean())
    assert bool(leaf.grad.any())
    with pytest.raises(InvalidInput, match="known for the rows of prompts only"):
        painter.paint(embeds + 1, negative, noise)
