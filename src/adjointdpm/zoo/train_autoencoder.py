"""Autoencoder stage: pixels <-> 16 x 16 x 8 latents, trained on composed images off the grid.

L1 + MSE + L1 of image gradients (edges are what makes a drawing crisp), a little noise on the
latents so that the decoder forgives the denoiser's last errors.  The learning rate follows the
wall clock, so that the run ends decayed after the minutes given, on a busy machine too.

Afterwards each latent channel is normalised inside the encoder's own last convolution
(`normalize_latents`), so that the shipped folder works in plain diffusers, which knows a single scale
only.  The decoder sees its input through a tanh and zero padding, where the inverse cannot be folded
in exactly: it is trained on, with the encoder frozen (`train_decoder`), and may be so for as long as
one likes without touching the latents that the denoiser learns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from adjointdpm.zoo.build import SCALE, build_vae
from adjointdpm.zoo.compose import Sprites, compose
from adjointdpm.zoo.draw import draw_scenes
from adjointdpm.zoo.muon import optimizer_for
from adjointdpm.zoo.training import Run

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

BATCH, MICRO_BATCHES = 12, 2  # of one step: 24 images
PEAK_RATE, DECODER_RATE = 1e-3, 5e-4
LATENT_NOISE = 0.03


def edges(image: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical differences of neighbouring pixels."""
    return image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]


def reconstruction_loss(output: Tensor, image: Tensor) -> Tensor:
    loss = (output - image).abs().mean() + 16 * (output - image).square().mean()
    for a, b in zip(edges(output), edges(image), strict=True):
        loss = loss + 0.5 * (a - b).abs().mean()
    return loss


def psnr(output: Tensor, image: Tensor) -> float:
    """Decibels from the mean squared error over all images, output clamped to [0, 1]."""
    error = (output.clamp(0, 1) - image).square().mean()
    return float(-10 * error.log10())


def train_autoencoder(run: Run, sprites: Sprites) -> None:
    """Train until the run's time is up, normalise, write `autoencoder.safetensors`."""
    torch.manual_seed(run.seed)
    vae = build_vae()
    with torch.no_grad():  # start from gray: as built, the output is far out of range
        vae.decoder.layers[-1].weight.mul_(0.1)
        vae.decoder.layers[-1].bias.fill_(0.5)
    _train(run, sprites, vae, LATENT_NOISE, PEAK_RATE)
    if run.leads:
        generator = torch.Generator().manual_seed(20_000_003)
        normalize_latents(vae, compose(draw_scenes(1500, generator), sprites, generator))
        run.save_weights("autoencoder", vae.state_dict())


def train_decoder(run: Run, sprites: Sprites) -> None:
    """Train the decoder alone on the frozen encoder, write `decoder.safetensors` (all weights)."""
    vae = build_vae()
    vae.load_state_dict(load_file(run.folder / "autoencoder.safetensors"))
    vae.encoder.requires_grad_(False)
    _train(run, sprites, vae, LATENT_NOISE, DECODER_RATE)
    if run.leads:
        run.save_weights("decoder", vae.state_dict())


def _train(run: Run, sprites: Sprites, vae: AutoencoderTiny, noise: float, rate: float) -> None:
    vae.to(run.device, memory_format=torch.channels_last)
    optimizer = optimizer_for({name: p for name, p in vae.named_parameters() if p.requires_grad}, run.team)
    generator = torch.Generator().manual_seed(run.seed + 1000 * run.team.rank)
    test = torch.Generator().manual_seed(10_000_019)
    real = compose(draw_scenes(192, test), sprites, test).to(run.device, memory_format=torch.channels_last)
    run.resume(vae=vae, optimizer=optimizer, generator=generator)
    run.team.begin(run.step, MICRO_BATCHES)
    recent: list[float] = []
    while run.going():
        run.set_rate(optimizer, rate, warmup=100)
        total = 0.0
        for _ in run.team.micro_batches(run.step, MICRO_BATCHES):
            image = compose(draw_scenes(BATCH, generator), sprites, generator, jitter=bool(run.step % 2))
            loss = autoencoder_loss(vae, image.to(run.device, memory_format=torch.channels_last), noise, run)
            loss.backward()
            total += loss.item()
        recent.append(run.update(optimizer, total, MICRO_BATCHES))
        if run.step % 200 == 0 and run.leads:
            quality = psnr(reconstruct(vae, real, run), real)
            run.log(loss=sum(recent) / len(recent), psnr=quality, images=run.step * BATCH * MICRO_BATCHES)
            recent.clear()
        run.tick(vae=vae, optimizer=optimizer, generator=generator)
    if run.leads:
        run.save(vae=vae, optimizer=optimizer, generator=generator)
        run.log(psnr=psnr(reconstruct(vae, real, run), real), final=True)


def autoencoder_loss(vae: AutoencoderTiny, image: Tensor, noise: float, run: Run) -> Tensor:
    with run.autocast():
        latents = vae.encoder(2 * image - 1)
        spread = latents.detach().float().std()
        output = vae.decoder(latents + noise * spread * torch.randn_like(latents))
        output = 0.5 + 0.5 * output.float()
    loss = reconstruction_loss(output, image)
    if latents.requires_grad:  # keeps the scale of the latents near what they are normalised to in the end
        loss = loss + 0.05 * (latents.float().square().mean() - SCALE**-2).square()
    return loss


@torch.no_grad()
def reconstruct(vae: AutoencoderTiny, image: Tensor, run: Run) -> Tensor:
    with run.autocast():
        return 0.5 + 0.5 * vae.decoder(vae.encoder(2 * image - 1)).float()


@torch.no_grad()
def normalize_latents(vae: AutoencoderTiny, image: Tensor) -> None:
    """Give each latent channel mean 0 and spread 1 / SCALE over `image`, inside the encoder.

    The decoder's first convolution gets the inverse, exact but for its tanh and its zero padding.
    """
    latents = torch.cat([vae.encoder(2 * part - 1) for part in image.split(100)])
    mean, spread = latents.mean(dim=(0, 2, 3)), SCALE * latents.std(dim=(0, 2, 3))
    last, first = vae.encoder.layers[-1], vae.decoder.layers[0]
    last.weight.div_(spread.view(-1, 1, 1, 1))
    last.bias.sub_(mean).div_(spread)
    first.bias.add_(torch.einsum("oihw,i->o", first.weight, mean))
    first.weight.mul_(spread.view(1, -1, 1, 1))
