"""The denoising loop that people write by hand, made constant-memory by one line.

    python examples/replay_your_own_loop.py [steps]

A small UNet with random weights, a diffusers scheduler, classifier-free guidance, and a loss on the decoded image.  The
gradient goes to the initial noise and to the prompt embedding.  Once as it stands, once under `ad.replay`: the same
gradients, bit for bit, and a peak of memory that no longer grows with the number of steps.
"""

import sys
from contextlib import nullcontext

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel

import adjointdpm as ad
from adjointdpm.numerics import LiveTensorMeter, relative_error

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    block_out_channels=(32, 64),
    layers_per_block=1,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=32,
    attention_head_dim=8,
)
vae = AutoencoderTiny(encoder_block_out_channels=(16, 16, 16), decoder_block_out_channels=(16, 16, 16),
                      num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1))  # fmt: skip
unet.requires_grad_(False).eval()
vae.requires_grad_(False).eval()

noise = torch.randn(1, 4, 16, 16, requires_grad=True)
prompt = torch.randn(1, 8, 32, requires_grad=True)
empty = torch.randn(1, 8, 32)


def sample() -> torch.Tensor:
    """Noise to image, as in any notebook."""
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    latents = noise
    for t in scheduler.timesteps:
        both = unet(torch.cat([latents] * 2), t, encoder_hidden_states=torch.cat([empty, prompt])).sample
        without, with_prompt = both.chunk(2)
        latents = scheduler.step(without + 5.0 * (with_prompt - without), t, latents).prev_sample
    return vae.decode(latents).sample


def gradient(*, replayed: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Gradients of a loss on the image to noise and prompt, and the peak bytes of live tensors."""
    with LiveTensorMeter() as meter:
        with ad.replay(unet, vae) if replayed else nullcontext():  # <- the one line
            image = sample()
        loss = (image - 0.5).square().mean()
        to_noise, to_prompt = torch.autograd.grad(loss, [noise, prompt])
    return to_noise, to_prompt, meter.peak_bytes


plain = gradient(replayed=False)
ours = gradient(replayed=True)
for name, got, want in zip(("noise", "prompt"), ours, plain, strict=False):
    error = relative_error(got, want)  # type: ignore[arg-type]
    print(f"gradient to the {name:<6}: relative error {error:.1e}, bit equal: {torch.equal(got, want)}")  # type: ignore[arg-type]
print(f"peak of live tensors, {steps} steps: plain {plain[2] / 1e6:.1f} MB, under ad.replay {ours[2] / 1e6:.1f} MB")
