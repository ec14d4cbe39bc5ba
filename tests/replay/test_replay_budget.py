"""`memory=`: gradients as ever, no more memory than allowed, fewer recomputations the more there is."""

import dataclasses
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as ad
from adjointdpm.errors import InvalidInput, PerformanceWarning
from adjointdpm.numerics import LiveTensorMeter
from adjointdpm.replay.budget import Budget, parse_memory, readable
from adjointdpm.replay.profile import _known, _owner, known_profile, measure


@pytest.fixture(autouse=True)
def keeping_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' networks are too small for their times to be measured well."""
    monkeypatch.setattr(sys.modules["adjointdpm.replay.profile"], "_pays", lambda reused, fresh: True)


class Net(nn.Module):
    """A network whose graph (about 2 MB) is large beside its weights and its argument."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(32, width) for _ in range(2))
        self.out = nn.Linear(width, 32)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.layers[0](x)) * torch.sigmoid(self.layers[1](x))
        out: Tensor = self.out(hidden)
        return out


X = torch.randn(512, 32, generator=torch.Generator().manual_seed(1))
CALLS = 10


def loop(net: nn.Module, x: Tensor, calls: int = CALLS) -> Tensor:
    for _ in range(calls):
        x = x + 0.1 * net(x)
    return x.square().mean()


def gradient(net: nn.Module, calls: int = CALLS, **options: Any) -> tuple[list[Tensor], Any, int]:
    """Gradients to x and the trainable weights, the counts, and the peak of live bytes, weights included."""
    x = X.clone().requires_grad_()
    leaves = [x, *(p for p in net.parameters() if p.requires_grad)]
    with LiveTensorMeter() as meter:
        with ad.replay(net, **options) as record:
            loss = loop(net, x, calls)
        found = torch.autograd.grad(loss, leaves)
    return list(found), record.stats, meter.peak_bytes + sum(p.nbytes for p in net.parameters())


@pytest.fixture(params=[False, True], ids=["x", "weights too"])
def net(request: pytest.FixtureRequest) -> Net:
    made = Net().requires_grad_(request.param)
    gradient(made, 2, memory="1GB")  # measures a call
    return made


def test_same_gradients_within_the_budget_and_fewer_recomputations(net: Net) -> None:
    want, _, least = gradient(net)
    _, _, most = gradient(net, keep=CALLS)
    recomputations = []
    for share in (0.05, 0.3, 0.6, 1.1):
        budget = int(1.1 * least + share * (most - least))
        found, stats, peak = gradient(net, memory=budget)
        assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
        assert peak <= 1.02 * budget
        recomputations.append(stats.recomputations)
    assert recomputations == sorted(recomputations, reverse=True)
    assert recomputations[0] > recomputations[1] > recomputations[2]
    assert recomputations[-1] == 0


def test_too_small_names_the_smallest_that_works(net: Net) -> None:
    with pytest.raises(InvalidInput, match="is too small") as caught:
        gradient(net, memory="100KB")
    smallest = str(caught.value).split('"')[-2]
    found, _, peak = gradient(net, memory=smallest, calls=2)
    assert peak <= 1.02 * parse_memory(smallest)  # type: ignore[operator]
    with pytest.warns(PerformanceWarning, match="the states of the calls so far"):  # 64 KB each
        found, _, peak = gradient(net, memory=smallest)
    assert all(torch.equal(a, b) for a, b in zip(found, gradient(net)[0], strict=True))


def test_the_first_call_of_a_kind_is_measured_once() -> None:
    net, runs = Net(), []
    net.layers[0].register_forward_hook(lambda *_: runs.append(1))
    x = X.clone().requires_grad_()
    for expected in (range(CALLS + 6, CALLS + 13), [CALLS]):  # 5 to 11 to measure it, 1 as its own graph was not kept
        runs.clear()
        with ad.replay(net, memory="1GB") as record:
            loop(net, x).backward()
        assert len(runs) in expected
    assert record.stats.forwards == record.stats.vjps == CALLS
    assert record.stats.recomputations == 0


def test_measuring_leaves_no_trace() -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm = nn.Linear(32, 32), nn.BatchNorm1d(32)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = torch.dropout(self.norm(self.inner(x)), 0.5, True)
            return out

    found = []
    for options in ({}, {"memory": "1GB"}):
        torch.manual_seed(0)
        net = Random()
        x = X.clone().requires_grad_()
        with ad.replay(net, **options):  # type: ignore[arg-type]
            loop(net, x).backward()
        found.append([x.grad, *(p.grad for p in net.parameters()), *net.buffers(), torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_does_not_pay_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["adjointdpm.replay.budget"], "measure", _measured_as_not_paying)
    net = Net()
    _, stats, _ = gradient(net, memory="1GB")
    _, again, _ = gradient(net, memory="1GB")
    assert (stats.recomputations, again.recomputations) == (CALLS, CALLS)


def _measured_as_not_paying(module: nn.Module, kind: Any, *rest: Any) -> Any:
    slow = dataclasses.replace(measure(module, kind, *rest), keeping_pays=False)
    _known[_owner(module)][kind] = slow
    return slow


def test_one_budget_for_two_modules(net: Net) -> None:
    """As a denoiser and a decoder: the second, larger one makes the first one's graphs go."""
    large = Net(1024).requires_grad_(False)

    def run(**options: Any) -> tuple[Tensor, Any, int]:
        x = X.clone().requires_grad_()
        with LiveTensorMeter() as meter:
            with ad.replay(net, large, **options) as record:
                for _ in range(6):
                    x_next = x + 0.1 * net(x)
                loss = large(x_next).square().mean()
            (found,) = torch.autograd.grad(loss, x)
        weights = sum(p.nbytes for m in (net, large) for p in m.parameters())
        return found, record.stats, meter.peak_bytes + weights

    want, _, _ = run()
    run(memory="1GB")
    found, _, peak = run(memory="30MB")
    assert torch.equal(found, want)
    assert peak <= 1.02 * 30e6


def test_a_budget_is_shared_by_blocks_of_one_computation(net: Net) -> None:
    budget, x = Budget("1GB"), X.clone().requires_grad_()
    with ad.replay(net, memory=budget) as first:
        h = loop(net, x)
    with ad.replay(net, memory=budget) as second:
        (h + net(x).mean()).backward()
    assert first.stats.recomputations == second.stats.recomputations == 0


@pytest.mark.parametrize(
    ("memory", "size"),
    [("2GB", 2e9), ("2 GiB", 2**31), ("1.5kb", 1500), ("800MiB", 800 * 2**20), (3e9, 3e9), (7, 7), ("12", 12)],
)
def test_sizes(memory: Any, size: float) -> None:
    assert parse_memory(memory) == size


@pytest.mark.parametrize("memory", ["", "GB", "2XB", "-1GB", 0, -5, "0GB", True, float("inf"), float("nan"), [1]])
def test_bad_sizes(memory: Any) -> None:
    with pytest.raises(InvalidInput, match="memory="):
        ad.replay(Net(), memory=memory)


def test_not_together_with_keep() -> None:
    with pytest.raises(InvalidInput, match="leave keep= out"):
        ad.replay(Net(), keep=2, memory="1GB")


def test_readable_rounds_up() -> None:
    assert [readable(s) for s in (1.231e9, 45e6, 999, 1_001)] == ["1.24GB", "45.00MB", "999B", "1.01KB"]
    assert all(parse_memory(readable(s)) >= s for s in (1.231e9, 45.678e6, 999))  # type: ignore[operator]


def test_a_kind_that_nobody_measured() -> None:
    assert known_profile(Net(), ()) is None
