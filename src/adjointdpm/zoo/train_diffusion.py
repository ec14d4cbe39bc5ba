"""Diffusion stage: text encoder and denoiser, trained together on latents composed on the fly.

v-prediction, one optimizer for both networks, an average of their weights as the result.  Times are
drawn around equal signal and noise with equal weights, where min-SNR would draw them evenly and
weigh most of them down: with few images to learn from, every one has to count, and the noisy ones teach
what the words mean.  Nameless colour effects get the word `filtered`; in half of those captions the word's
input embedding is shifted by a learnt linear function of the effect's own colour map.  The
shift is not shipped: it teaches the networks that the neighbourhood of that word holds every
colour map, so an embedding can be found later for an effect that no word names.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adjointdpm.zoo.build import (
    SCALE,
    TEXT_WIDTH,
    TOKENS,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
)
from adjointdpm.zoo.captions import caption
from adjointdpm.zoo.compose import Scenes, Sprites, compose
from adjointdpm.zoo.draw import draw_scenes
from adjointdpm.zoo.lexicon import NAMELESS
from adjointdpm.zoo.muon import optimizer_for
from adjointdpm.zoo.training import Average, Run

MICRO, MICRO_BATCHES = 32, 2  # one step: 64 images
PEAK_RATE = 1.2e-3
DECAY = 0.6  # share of the time over which the rate falls
LOG_SNR = (-0.3, 2.0)  # mean and spread of the training times' log signal-to-noise ratio
UNIFORM = 0.25  # share of times drawn evenly instead, so that both ends are trained
EMA = 0.997
COLOR_MAP = 24  # numbers in a nameless effect: two affine maps of colour


class Denoiser(nn.Module):
    """The two networks that are trained, and the embedding shift that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers.models.attention_processor import AttnProcessor

        self.unet = build_unet()
        # for 64 tokens plain matrix products are faster than the fused kernel, in bfloat16 tenfold
        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder = build_text_encoder()
        self.shift = nn.Linear(COLOR_MAP, TEXT_WIDTH, bias=False)
        self._added: Tensor | None = None
        embedding = self.text_encoder.get_input_embeddings()
        embedding.register_forward_hook(lambda _module, _args, out: out if self._added is None else out + self._added)

    def forward(self, noisy: Tensor, t: Tensor, tokens: Tensor, shift_at: Tensor, maps: Tensor) -> Tensor:
        """`shift_at` (B, TOKENS) marks the words to shift by the colour maps (B, 24)."""
        self._added = shift_at[:, :, None] * self.shift(maps)[:, None]
        try:
            states = self.text_encoder(tokens).last_hidden_state
        finally:
            self._added = None
        return self.unet(noisy, t, states).sample


class Words:
    """Captions to token ids without the tokenizer's overhead (same ids: a test compares them)."""

    def __init__(self) -> None:
        tokenizer = build_tokenizer()
        self.ids = tokenizer.get_vocab()
        self.start, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.nameless = self.ids[NAMELESS]

    def __call__(self, captions: list[str]) -> Tensor:
        rows = torch.full((len(captions), TOKENS), self.end)
        rows[:, 0] = self.start
        for row, text in zip(rows, captions, strict=True):
            ids = [self.ids[word] for word in text.split()][: TOKENS - 2]
            row[1 : 1 + len(ids)] = torch.tensor(ids, dtype=torch.long)
        return rows


def color_map_numbers(scenes: Scenes) -> Tensor:
    """(B, 24): how far the two affine maps of a nameless effect are from leaving colours alone."""
    identity = torch.eye(3, 4)
    return torch.cat([(m - identity).flatten(1) for m in (scenes.map_low, scenes.map_high)], dim=1)


def diffusion_loss(model: Denoiser, latents: Tensor, inputs: tuple[Tensor, ...], alphas: Tensor, run: Run) -> Tensor:
    t = draw_times(latents.shape[0], alphas)
    alpha = alphas[t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
    noise = torch.randn_like(latents)
    noisy = (alpha * latents + sigma * noise).contiguous(memory_format=torch.channels_last)
    with run.autocast():
        output = model(noisy, t, *inputs)
    return (output.float() - (alpha * noise - sigma * latents)).square().mean()


def draw_times(n: int, alphas: Tensor) -> Tensor:
    """Training times whose log SNR is normal, mixed with uniform ones."""
    log_snr = (alphas / (1 - alphas)).log()  # falls with t
    wished = LOG_SNR[0] + LOG_SNR[1] * torch.randn(n, device=alphas.device)
    t = torch.searchsorted(-log_snr, -wished).clamp_max(len(alphas) - 1)
    even = torch.rand(n, device=alphas.device) < UNIFORM
    return torch.where(even, torch.randint(0, len(alphas), (n,), device=alphas.device), t)


def load_autoencoder(folder: Path, device: torch.device) -> nn.Module:
    vae = build_vae()
    later = folder / "decoder.safetensors"  # same encoder, decoder trained further
    vae.load_state_dict(load_file(later if later.exists() else folder / "autoencoder.safetensors"))
    return vae.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)


def train_diffusion(run: Run, sprites: Sprites) -> None:
    """Train until the run's time is up, then write the averaged `unet` and `text_encoder`."""
    torch.manual_seed(run.seed)
    vae = load_autoencoder(run.folder, run.device)
    model = Denoiser().to(run.device)
    model.unet.to(memory_format=torch.channels_last)
    optimizer = optimizer_for(dict(model.named_parameters()), run.team)
    average = Average({"unet": model.unet, "text_encoder": model.text_encoder}, EMA)
    generator = torch.Generator().manual_seed(run.seed + 1000 * run.team.rank)
    parts = {"model": model, "optimizer": optimizer, "average": average, "generator": generator}
    run.resume(**parts)
    run.team.begin(run.step, MICRO_BATCHES)
    torch.manual_seed(run.seed + 7919 * run.step + run.team.rank)  # noise and times
    rng = random.Random(run.seed + 7919 * run.step + run.team.rank)
    words, alphas = Words(), build_scheduler().alphas_cumprod.to(run.device)
    recent: list[float] = []
    while run.going():
        run.set_rate(optimizer, PEAK_RATE, warmup=200, decay=DECAY)
        total = 0.0
        for _ in run.team.micro_batches(run.step, MICRO_BATCHES):
            scenes = draw_scenes(MICRO, generator, richness=richness(run.progress))
            inputs = caption_inputs(scenes, words, rng)
            image = compose(scenes, sprites, generator).to(run.device, memory_format=torch.channels_last)
            with torch.no_grad(), run.autocast():
                latents = SCALE * vae.encoder(2 * image - 1).float()
            inputs = tuple(x.to(run.device) for x in inputs)
            loss = diffusion_loss(model, latents, inputs, alphas, run)
            loss.backward()
            total += loss.item()
        recent.append(run.update(optimizer, total, MICRO_BATCHES))
        if run.leads:
            average.update()
        if run.step % 50 == 0:
            run.log(
                loss=sum(recent) / len(recent),
                images=run.step * MICRO * MICRO_BATCHES,
                rate=optimizer.param_groups[0]["lr"],
            )
            recent.clear()
        run.tick(**parts)
    if run.leads:
        run.save(**parts)
        run.log(loss=sum(recent) / max(1, len(recent)), images=run.step * MICRO * MICRO_BATCHES, final=True)
        for name in average.modules:
            run.save_weights(name, average.of(name))


def richness(progress: float) -> float:
    """Share of the effects that is shown: they are learnt long before the objects, so they are rare at first."""
    return 0.3 + 0.4 * min(1.0, max(0.0, (progress - 0.6) / 0.3))


def caption_inputs(scenes: Scenes, words: Words, rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, which words are shifted (half of the nameless ones), and the colour maps."""
    tokens = words([caption(scenes, i, rng) for i in range(len(scenes))])
    told = torch.tensor([rng.random() < 0.5 for _ in range(len(scenes))])
    return tokens, ((tokens == words.nameless) & told[:, None]).float(), color_map_numbers(scenes)
