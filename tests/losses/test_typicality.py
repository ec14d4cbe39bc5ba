"""Penalties on noise that was optimised: small for what a Gaussian gives, large for what it does not."""

import math

import numpy as np
import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.losses.typicality import concentration_penalty, norm_penalty


def gaussian(count, *shape, seed=0, dtype=torch.float32):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def structured(count=4):
    """Noise of the right norm that is far from white: smooth and with a mean."""
    smooth = torch.nn.functional.avg_pool2d(gaussian(count, 4, 16, 16), 5, 1, 2) + 0.2
    return smooth / smooth.flatten(1).norm(dim=1)[:, None, None, None] * math.sqrt(4 * 256)


def test_norm_penalty_is_the_chi_density():
    from scipy.stats import chi

    x = gaussian(5, 3, 7, 7, dtype=torch.float64) * torch.tensor([0.5, 0.9, 1, 1.1, 2.0]).view(5, 1, 1, 1)
    d, radii = 147, x.flatten(1).norm(dim=1).numpy()
    expected = -chi.logpdf(radii, d) + chi.logpdf(math.sqrt(d - 1), d)
    assert norm_penalty(x).numpy() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert float(norm_penalty(gaussian(64, 8, 16, 16)).mean()) == pytest.approx(0.5, abs=0.25)


def written_out(x, k, orders, seed):
    """The bounds of DNO, one at a time."""
    source, d = torch.Generator().manual_seed(seed), x.numel()
    places = [torch.arange(d), *(torch.randperm(d, generator=source) for _ in range(orders))]
    m, found = d // k, []
    for place in places:
        z = x.flatten()[place][: m * k].reshape(m, k).numpy()
        first = m * np.linalg.norm(z.mean(0)) ** 2 / (2 * k)
        spectral = np.linalg.norm(z.T @ z / m - np.eye(k), 2)
        second = m * max(math.sqrt(1 + spectral) - 1 - math.sqrt(k / m), 0) ** 2 / 2
        found.append(sum(-math.log(min(2 * math.exp(-e), 1)) for e in (first, second)))
    return found[0] + sum(found[1:]) / orders


def test_concentration_penalty_is_the_published_bound():
    for scale, shift in ((1, 0), (1.4, 0), (1, 0.3)):
        x = gaussian(2, 4, 8, 8, dtype=torch.float64) * scale + shift
        expected = [written_out(one, 4, 5, 3) for one in x]
        assert concentration_penalty(x, orders=5, seed=3).tolist() == pytest.approx(expected, rel=1e-9)
        assert min(expected) > 1 or scale == 1


def test_drawn_noise_is_not_penalised():
    drawn = gaussian(32, 8, 16, 16)
    assert float(concentration_penalty(drawn).max()) < 1
    assert float(concentration_penalty(1.3 * drawn).min()) > 20
    assert float(norm_penalty(1.3 * drawn).min()) > 20


def test_structure_is_seen_by_concentration_and_not_by_the_norm():
    assert float(norm_penalty(structured()).max()) < 0.1
    assert float(concentration_penalty(structured()).min()) > 20


@pytest.mark.parametrize("penalty", [norm_penalty, concentration_penalty])
def test_following_the_gradient_leads_back(penalty):
    x = (1.2 * structured(2) + 0.1).requires_grad_()
    start = float(penalty(x.detach()).sum())
    optimizer = torch.optim.Adam([x], 0.05)
    for _ in range(30):
        optimizer.zero_grad()
        penalty(x).sum().backward()
        optimizer.step()
    assert float(penalty(x.detach()).sum()) < 0.1 * start


@pytest.mark.parametrize("penalty", [norm_penalty, concentration_penalty])
def test_gradients_and_refusals(penalty):
    x = (1.5 * gaussian(2, 2, 5, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(penalty, x, eps=1e-6, atol=1e-5)
    assert penalty(x.detach().bfloat16()).dtype == torch.float32
    with pytest.raises(InvalidInput):
        penalty(torch.zeros(3))
    with pytest.raises(InvalidInput):
        concentration_penalty(torch.zeros(1, 7))
