"""`split`, `norms`, `clip` and `accumulate` of `ad.replay`."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as ad
from adjointdpm.errors import InvalidInput, NonFinite
from adjointdpm.numerics import LiveTensorMeter, relative_error
from adjointdpm.replay import Norms
from tests.support.replay_nets import Field, euler, state


def gradients(net: nn.Module, z: Tensor, c: Tensor | None = None, **options: Any) -> tuple[list[Tensor], Any]:
    leaves = [z, *([] if c is None else [c]), *net.parameters()]
    with ad.replay(net, **options) as record:
        loss = euler(net, z, *([] if c is None else [c])).square().sum()
    return list(torch.autograd.grad(loss, leaves, allow_unused=True)), record.stats


# --- split ---------------------------------------------------------------------------------------


class Output(dict[str, Any]):
    """A result with a tensor of the batch, a number and a constant."""


class Branched(nn.Module):
    """As a U-Net: keyword conditioning in a dict, a time for all, an output object."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.mix, self.down = nn.Linear(8, 16), nn.Linear(4, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, t: Tensor, *, cond: dict[str, Tensor]) -> Output:
        hidden = torch.tanh(self.up(x) + t + self.mix(cond["text"]))
        return Output(sample=self.down(hidden), scale=torch.ones(3), name="x")


def test_parts_of_a_batch_give_the_same_to_rounding() -> None:
    torch.manual_seed(0)
    net, x = Branched().double(), state(0, 4, 8, dtype=torch.float64)
    text = state(1, 4, 4, dtype=torch.float64)
    found = []
    for options in ({}, {"split": 2}, {"split": 4}):
        with ad.replay(net, **options) as record:  # type: ignore[arg-type]
            out = net(x, torch.tensor(0.3), cond={"text": text})
            out = net(out["sample"], torch.tensor(0.1), cond={"text": text})
        assert out["sample"].shape == (4, 8)
        assert out["name"] == "x"
        grads = torch.autograd.grad(out["sample"].square().sum(), [x, text, *net.parameters()])
        found.append((grads, record.stats))
    for (grads, stats), parts in zip(found, (1, 2, 4), strict=True):
        assert stats.forwards == stats.vjps == 2 * parts
        assert all(relative_error(a, b) < 1e-13 for a, b in zip(grads, found[0][0], strict=True))


class Rowwise(nn.Module):
    """Rows do not see each other, as in every denoiser."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.tanh(self.up(x)))
        return out


def test_two_parts_halve_the_peak() -> None:
    torch.manual_seed(0)
    net, z = Rowwise().double().requires_grad_(False), state(0, 64, 8, dtype=torch.float64)
    peaks, found = [], []
    for split in (1, 2):
        with LiveTensorMeter() as meter:
            with ad.replay(net, split=split):
                loss = (z + net(z) + net(2 * z)).square().sum()
            found.append(torch.autograd.grad(loss, z)[0])
        peaks.append(meter.peak_bytes)
    assert relative_error(found[1], found[0]) < 1e-14
    assert peaks[1] < 0.6 * peaks[0]


def test_a_batch_that_does_not_divide_runs_whole() -> None:
    net, z = Rowwise(), state(0, 3, 8)
    with ad.replay(net, split=2) as record:
        net(z).sum().backward()
    assert record.stats.forwards == 1


def test_a_result_over_the_whole_batch_cannot_be_put_together() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(0)

    with ad.replay(net := Mean(), split=2), pytest.raises(InvalidInput, match="cannot be put together"):
        net(state(0, 4, 8))


@pytest.mark.parametrize("split", [0, -1, 1.5, True, "two"])
def test_bad_split(split: Any) -> None:
    with pytest.raises(InvalidInput, match="split="):
        ad.replay(Field(), split=split)


# --- norms ---------------------------------------------------------------------------------------


def test_profile_of_the_gradient() -> None:
    net, z = Field(), state()
    norms = Norms()
    plain, _ = gradients(net, z)
    found, _ = gradients(net, z, norms=norms)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True) if a is not None)
    assert [n.call for n in norms.profile] == [f"Field.forward (call {n})" for n in (5, 4, 3, 2, 1)]
    assert not any(n.clipped for n in norms.profile)
    last = norms.profile[0]
    x = z
    for n in range(4):
        x = x - 0.1 * net(x, 1.0 - n / 5)
    x = x.detach().requires_grad_()
    out = net(x, 1.0 - 4 / 5)
    cotangent = (2 * (x - 0.1 * out) * -0.1).detach()
    assert last.incoming == pytest.approx(float(cotangent.norm()), rel=1e-5)
    (back,) = torch.autograd.grad(out, x, cotangent)
    assert last.outgoing == pytest.approx(float(back.norm()), rel=1e-5)


def test_clipping() -> None:
    net, z = Field(), state()
    free = Norms()
    gradients(net, z, norms=free)
    bound = 0.5 * max(n.incoming for n in free.profile)
    norms = Norms(clip=bound)
    clipped, _ = gradients(net, z, norms=norms)
    assert any(n.clipped for n in norms.profile)
    assert all(n.incoming > bound for n in norms.profile if n.clipped)
    assert not torch.equal(clipped[0], gradients(net, z)[0][0])
    loose, _ = gradients(net, z, norms=Norms(clip=1e9))
    assert torch.equal(loose[0], gradients(net, z)[0][0])


class Pole(nn.Module):
    """Its derivative is infinite where a square root is taken of zero: at the third of five calls."""

    def forward(self, x: Tensor, t: float) -> Tensor:
        return torch.sqrt(x - x.detach()) if abs(t - 0.6) < 1e-9 else torch.sin(x)


def test_a_nan_is_reported_with_the_call_where_it_arose() -> None:
    net, z = Pole(), state()
    with ad.replay(net, norms=Norms()):
        loss = euler(net, z).sum()
    with pytest.raises(NonFinite, match=r"in the backward of Pole.forward \(call 3\)"):
        loss.backward()
    with ad.replay(net, norms=Norms()):
        loss = (euler(net, z) * float("inf")).sum()
    with pytest.raises(NonFinite, match=r"result of Pole.forward \(call 5\) is not finite: it arose after"):
        loss.backward()


@pytest.mark.parametrize("clip", [0, -1.0, float("nan"), float("inf"), "1", True])
def test_bad_clip(clip: Any) -> None:
    with pytest.raises(InvalidInput, match="clip="):
        Norms(clip=clip)


# --- accumulate ----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [16, 2048])  # small weights are summed at the end of a call, large ones as they arise
def test_sums_over_calls_in_float32(width: int) -> None:
    """A bfloat16 network of 60 calls: the sum of its weights' gradients loses less."""
    torch.manual_seed(0)
    net = Field(width).bfloat16()
    exact_net = Field(width)
    exact_net.load_state_dict({k: v.float() for k, v in net.state_dict().items()})
    z = state(0, 16, 8).detach()

    def summed(module: nn.Module, dtype: torch.dtype, **options: Any) -> Tensor:
        with ad.replay(module, **options):
            loss = sum(module(z.to(dtype), 0.01 * n).float().square().sum() for n in range(60))
        grads = torch.autograd.grad(loss, [module.up.weight, module.down.weight])  # type: ignore[arg-type,list-item,union-attr]
        assert all(g.dtype == dtype for g in grads)
        return torch.cat([g.float().flatten() for g in grads])

    want = summed(exact_net, torch.float32)
    narrow = summed(net, torch.bfloat16)
    wide = summed(net, torch.bfloat16, accumulate=torch.float32)
    assert relative_error(wide, want) < 0.7 * relative_error(narrow, want)
    assert torch.equal(narrow, summed(net, torch.bfloat16, accumulate=torch.bfloat16))


def test_conditioning_of_many_calls_is_summed_in_float32_too() -> None:
    torch.manual_seed(0)
    net = Field().bfloat16()
    z, c = state(0, 16, 8).detach().bfloat16(), state(1, 16, 4).detach().bfloat16().requires_grad_()

    def summed(options: dict[str, Any]) -> Tensor:
        with ad.replay(net, **options):
            loss = sum(net(z, 0.01 * n, c).float().square().sum() for n in range(60))
        return torch.autograd.grad(loss, c)[0].float()  # type: ignore[arg-type]

    exact_net, exact_c = Field(), c.detach().float().requires_grad_()
    exact_net.load_state_dict({k: v.float() for k, v in net.state_dict().items()})
    loss = sum(exact_net(z.float(), 0.01 * n, exact_c).square().sum() for n in range(60))
    (want,) = torch.autograd.grad(loss, exact_c)  # type: ignore[arg-type]
    assert relative_error(summed({"accumulate": torch.float32}), want) < relative_error(summed({}), want)


def test_full_precision_is_not_touched() -> None:
    net, z = Field(), state()
    found, _ = gradients(net, z, accumulate=torch.float32)
    plain, _ = gradients(net, z)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True) if a is not None)


@pytest.mark.parametrize("dtype", [torch.int32, "float32", 32])
def test_bad_dtype(dtype: Any) -> None:
    with pytest.raises(InvalidInput, match="accumulate="):
        ad.replay(Field(), accumulate=dtype)
