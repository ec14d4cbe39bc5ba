"""The recipe runs at its smallest: each stage for a few seconds, resumed, exported, loaded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adjointdpm.zoo.muon import Muon, orthogonalize, split_parameters
from adjointdpm.zoo.sprites import fit
from adjointdpm.zoo.team import Team
from adjointdpm.zoo.train_autoencoder import normalize_latents
from adjointdpm.zoo.train_diffusion import Denoiser, Words, caption_inputs, diffusion_loss, draw_times
from adjointdpm.zoo.training import Average, Run


def test_orthogonalize():
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalize(matrix).float())
    assert singular.min() > 0.6 and singular.max() < 1.3


def test_muon_learns_a_linear_map():
    torch.manual_seed(0)
    net, target = nn.Linear(16, 16), torch.randn(16, 16)
    matrices, rest = split_parameters(dict(net.named_parameters()))
    assert len(matrices) == 1 and len(rest) == 1
    optimizer = Muon([{"params": matrices, "muon": True, "lr": 0.1}, {"params": rest, "lr": 0.01}], Team())
    x = torch.randn(256, 16)
    losses = []
    for _ in range(150):
        loss = (net(x) - x @ target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_run_is_timed_resumable_and_stoppable(tmp_path):
    net = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.0)
    run = Run(tmp_path, "stage", minutes=1.0)
    run.step, run.elapsed = 500, 59.0
    assert run.going() and run.factor(warmup=100, decay=0.5) < 0.05
    run.save(net=net, optimizer=optimizer)
    again = Run(tmp_path, "stage", minutes=1.0)
    other = nn.Linear(2, 2)
    assert again.resume(net=other, optimizer=optimizer)
    assert again.step == 500 and again.spent == 59.0
    assert torch.equal(other.weight, net.weight)
    (tmp_path / "STOP").touch()
    long = Run(tmp_path, "other", minutes=600.0)
    net(torch.ones(1, 2)).sum().backward()
    long.update(optimizer, 0.0, 1)
    assert long.seconds < 600.0 * 60 and long.factor(warmup=1, decay=0.35) > 0.9


def test_average_starts_at_once():
    net = nn.Linear(1, 1, bias=False)
    average = Average({"net": net}, decay=0.999)
    with torch.no_grad():
        net.weight.fill_(5.0)
    for _ in range(40):
        average.update()
    assert abs(float(average.of("net")["weight"]) - 5.0) < 0.1


def test_sprites_keep_their_proportions():
    import numpy as np

    drawing = np.zeros((40, 60, 4), np.uint8)
    drawing[10:20, 10:50] = (200, 100, 0, 255)  # 10 x 40
    small = fit(drawing, 32)
    rows, cols = np.nonzero(small[..., 3] > 128)
    assert (cols.max() - cols.min() + 1, rows.max() - rows.min() + 1) == (32, 8)
    assert tuple(small[16, 16]) == (200, 100, 0, 255)


@pytest.mark.parametrize("n", [256])
def test_times_cover_both_ends(n):
    from adjointdpm.zoo.build import build_scheduler

    alphas = build_scheduler().alphas_cumprod
    t = draw_times(n * 20, alphas)
    assert t.min() >= 0 and t.max() < 1000
    log_snr = (alphas[t] / (1 - alphas[t])).log()
    assert -1.5 < log_snr.median() < 0.8
    assert (t < 50).any() and (t > 950).any()


def test_denoiser_loss_reaches_every_weight(sprites, tmp_path):
    import random

    from adjointdpm.zoo.build import build_scheduler, build_vae
    from adjointdpm.zoo.compose import compose
    from adjointdpm.zoo.draw import draw_scenes

    g = torch.Generator().manual_seed(0)
    scenes = draw_scenes(16, g)
    scenes.nameless[:] = 1
    vae = build_vae()
    image = compose(scenes, sprites, g)
    normalize_latents(vae, image)
    with torch.no_grad():
        latents = vae.encoder(2 * image - 1) / 0.6
    assert latents.mean().abs() < 0.05 and abs(latents.std() - 1) < 0.1
    model = Denoiser()
    inputs = caption_inputs(scenes, Words(), random.Random(1))
    assert inputs[1].any()
    run = Run(tmp_path, "tiny", 1.0)
    diffusion_loss(model, latents, inputs, build_scheduler().alphas_cumprod, run).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and torch.isfinite(p.grad).all()}
    assert reached == {name for name, _ in model.named_parameters()}
