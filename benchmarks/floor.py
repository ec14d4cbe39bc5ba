"""By hand, the least that one exact gradient of a guided DDIM image costs: N forwards, N − 1 recomputations, N VJPs.

Decoding is in both passes; the graphs of the last denoiser call and of the decoding stay alive, all others are made
again.  The measure that everything in `benchmarks.cost` is held against.
"""

import torch
from torch import Tensor, nn


class Sampler:
    """Guided DDIM on a v-predicting U-Net; `times` from noise to data, `bars` ᾱ there and at the end, one more."""

    def __init__(self, unet: nn.Module, vae: nn.Module, times: Tensor, bars: Tensor, cond: Tensor, scale: float):
        self.unet, self.vae, self.times, self.cond, self.scale = unet, vae, times, cond, scale  # cond: negative first
        self.alphas, self.sigmas = bars.sqrt().tolist(), (1 - bars).sqrt().tolist()

    def step(self, x: Tensor, n: int) -> Tensor:
        a, s = self.alphas[n], self.sigmas[n]
        empty, full = self.unet(torch.cat([x, x]), self.times[n], self.cond, return_dict=False)[0].chunk(2)
        v = empty + self.scale * (full - empty)
        x_0, eps = a * x - s * v, a * v + s * x
        return self.alphas[n + 1] * x_0 + self.sigmas[n + 1] * eps

    def decode(self, x: Tensor) -> Tensor:
        return self.vae.decode(x / self.vae.config.scaling_factor, return_dict=False)[0] * 0.5 + 0.5


def loss_of(image: Tensor) -> Tensor:
    return (image - 0.3).square().mean()


def gradient(sampler: Sampler, noise: Tensor) -> Tensor:
    """∂loss/∂noise; weights that require grad find theirs in `.grad`."""
    states, last = [noise.detach()], len(sampler.times) - 1
    with torch.no_grad():
        for n in range(last):
            states.append(sampler.step(states[n], n))
    x = states[last].requires_grad_()
    following = sampler.step(x, last)  # this call's graph stays
    z = following.detach().requires_grad_()
    loss_of(sampler.decode(z)).backward()
    following.backward(z.grad)
    for n in reversed(range(last)):
        cotangent, x = x.grad, states[n].requires_grad_()
        sampler.step(x, n).backward(cotangent)
    return x.grad
