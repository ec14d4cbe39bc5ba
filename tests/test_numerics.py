"""Error measures and the meter of live tensors."""

import math

import torch

from adjointdpm.numerics import LiveTensorMeter, cosine, relative_error, resident_bytes


def test_relative_error() -> None:
    a = torch.tensor([3.0, 4.0])
    assert relative_error(a, a) == 0
    assert math.isclose(relative_error(a * 1.1, a), 0.1, rel_tol=1e-6)
    assert relative_error(None, a) == 1
    assert relative_error(None, None) == 0
    assert relative_error(None, torch.zeros(2)) == 0
    assert relative_error(a, None) == math.inf
    assert relative_error(a, torch.zeros(2)) == math.inf
    assert math.isclose(relative_error(torch.tensor([1 + 1j]), torch.tensor([1 + 0j])), 1)
    assert relative_error(torch.ones(4, dtype=torch.bfloat16), torch.ones(4)) == 0


def test_cosine() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    assert math.isclose(cosine(a, b), math.sqrt(0.5))
    assert cosine(a, -a) == -1
    assert math.isnan(cosine(a, torch.zeros(2)))


def test_meter_counts_new_storages_once_and_what_is_freed() -> None:
    old = torch.zeros(1000)
    with LiveTensorMeter() as meter:
        a = torch.zeros(100)  # 400 bytes
        view = a[10:].view(9, 10)
        a.add_(1)
        old.mul_(2)
        part = old[:500]
        assert (meter.live_bytes, meter.peak_bytes) == (400, 400)
        b = a + 1
        assert meter.live_bytes == 800
        del b
        assert (meter.live_bytes, meter.peak_bytes) == (400, 800)
        del a
        assert meter.live_bytes == 400, "the view still holds the storage"
        del view
        assert meter.live_bytes == 0
        meter.reset_peak()
        assert meter.peak_bytes == 0
    assert part.numel() == 500


def test_meter_sees_what_autograd_holds_and_allocates() -> None:
    x = torch.ones(1000, requires_grad=True)
    with LiveTensorMeter() as meter:
        y = x
        for _ in range(5):
            y = y.sin()  # each keeps its input
        held = meter.live_bytes
        y.sum().backward()
        del y
    assert held == 5 * 4000
    assert meter.live_bytes == 4000  # the gradient
    assert meter.peak_bytes > held


def test_resident_bytes() -> None:
    before = resident_bytes()
    assert before is not None
    block = torch.ones(40_000_000)
    assert resident_bytes() - before > 100_000_000
    del block
