"""How typical a noise is, and the projection that keeps its length."""

import pytest
import torch
from torch.autograd import gradcheck

from adjointdpm.tasks.guide.typicality import deviance, on_shell, scales, typicality


def noise(count=64, seed=0):
    return torch.randn(count, 8, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_gaussian_noise_is_typical_and_what_an_optimiser_adds_is_not():
    drawn = noise()
    usual = deviance(drawn)
    assert usual.shape == (64,)
    assert float(usual.mean()) == pytest.approx(0.5, abs=0.07)
    assert float(usual.max()) < 1.5
    ramp = torch.linspace(-1, 1, 16).expand(16, -1)
    for changed in (drawn + 0.5 * ramp, 1.15 * drawn, 0.85 * drawn, drawn.roll(1, -1) + drawn):
        assert float(deviance(changed).min()) > float(usual.max())
    smooth = on_shell(drawn + ramp, drawn)
    assert float(deviance(smooth).mean()) > 4  # of the right length, but of another spectrum


def test_the_shell_keeps_each_length_and_the_gradient_is_of_what_was_projected():
    drawn = noise(3)
    projected = on_shell(2 * drawn + 0.1, drawn)
    lengths = [x.flatten(1).norm(dim=1) for x in (projected, drawn)]
    assert torch.allclose(*lengths)
    assert torch.allclose(on_shell(drawn, drawn), drawn)
    small = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert gradcheck(lambda x: on_shell(x, small), (1.5 * small + 0.2).requires_grad_(), fast_mode=True)
    free = drawn.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(on_shell(free, drawn)[:, 0].square().sum(), free)
    along = (gradient * free).flatten(1).sum(dim=1)
    assert float(along.abs().max()) < 1e-3 * float(gradient.flatten(1).norm(dim=1).min())  # nothing along the radius


def test_the_penalty_pulls_back():
    x = (noise(2) + 0.4).requires_grad_()
    for _ in range(20):
        (gradient,) = torch.autograd.grad(deviance(x).sum(), x)
        x = (x - 2.0 * gradient).detach().requires_grad_()
    assert float(deviance(x).max()) < 0.5 * float(deviance(noise(2) + 0.4).min())


def test_scales_and_the_table():
    assert scales(16, 16) == [1, 2, 4, 8]
    assert scales(3, 8) == [1]
    assert scales(1, 1) == [1]
    rows = typicality(torch.cat([noise(1), 1.5 * noise(1)]))
    assert rows[0]["length"] == pytest.approx(1, abs=0.05)
    assert rows[1]["length"] == pytest.approx(1.5, abs=0.08)
    assert rows[1]["deviance"] > 5 > rows[0]["deviance"]
