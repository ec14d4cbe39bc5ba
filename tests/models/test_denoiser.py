"""The border to the network: dtypes, shapes, hidden weights, train mode; guidance and its branches."""

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput, UnreachedGradient
from adjointdpm.models import Denoiser, GuidedDenoiser, refuse_noisy_modules
from adjointdpm.models.network import NetworkCall
from adjointdpm.models.tree import tensors, tree_map, tree_zip
from adjointdpm.schedules import RectifiedFlow, VPLinear

T = torch.tensor(0.5, dtype=torch.float64)


class Spy(nn.Module):
    """A linear network that remembers what it was given."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3).to(dtype)
        self.calls: list[tuple[Tensor, Tensor, Any]] = []

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.calls.append((x, t, cond))
        out: Tensor = self.linear(x) + t[:, None].to(x.dtype)
        return out if cond is None else out + next(tensors(cond)).reshape(len(x), -1)[:, :1]


def x_of(batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("net", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("state", [torch.float32, torch.float64])
def test_dtypes_are_cast_at_the_border(net: torch.dtype, state: torch.dtype) -> None:
    spy = Spy(net)
    said = Denoiser(spy, VPLinear())(x_of(dtype=state), T, {"text": torch.ones(2, 4), "ids": torch.ones(2, 1).long()})
    x, t, cond = spy.calls[0]
    assert x.dtype == net
    assert t.dtype == (torch.float64 if net == torch.float64 else torch.float32)
    assert t.shape == (2,)
    assert cond["text"].dtype == net
    assert cond["ids"].dtype == torch.int64
    assert said.raw.dtype == said.eps.dtype == said.x0.dtype == state


def test_time_map_and_schedule_time() -> None:
    spy = Spy()
    Denoiser(spy, VPLinear(), time_map=lambda t: 999 * t)(x_of(), T)
    assert float(spy.calls[0][1][0]) == 499.5
    Denoiser(spy, RectifiedFlow(shift=3.0, time_scale=1000.0), "flow")(x_of(), T)
    assert float(spy.calls[1][1][0]) == pytest.approx(750.0)


@pytest.mark.parametrize("out", [lambda x: x[:1], lambda x: (x,), lambda x: None])
def test_output_shape_is_checked(out: Any) -> None:
    with pytest.raises(InvalidInput, match="shape of x"):
        Denoiser(lambda x, t, cond: out(x), VPLinear())(x_of(), T)


def test_unknown_settings() -> None:
    for arguments in ({"prediction": "score"}, {"branches": "both"}, {"net": 3}):
        with pytest.raises(InvalidInput):
            Denoiser(**{"net": Spy(), "schedule": VPLinear(), **arguments})


class Holder:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        out: Tensor = self.net(x, t, cond)
        return out

    method = __call__


GLOBAL = Spy()


def uses_global(x: Tensor, t: Tensor, cond: Any) -> Tensor:
    out: Tensor = GLOBAL(x, t, cond)
    return out


def test_weights_behind_a_plain_callable_are_found() -> None:
    spy, delta = Spy(), torch.zeros(3, requires_grad=True)

    def wrapped(scale: float, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return scale * spy(x, t, cond) + delta

    for net in (spy, Holder(spy), Holder(spy).method, lambda x, t, c: spy(x, t, c), functools.partial(wrapped, 2.0)):
        assert spy.linear.weight in set(NetworkCall(net, None).parameters())
    assert GLOBAL.linear.weight in set(NetworkCall(uses_global, None).parameters())
    assert delta in set(NetworkCall(functools.partial(wrapped, 2.0), None).buffers())
    assert spy.linear.weight in set(NetworkCall(lambda x, t, c: x, None, (spy,)).parameters())


def test_train_mode_with_dropout_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1))
    with pytest.raises(InvalidInput, match="eval"):
        refuse_noisy_modules(net)
    with pytest.raises(InvalidInput, match="1 would act"):
        refuse_noisy_modules(NetworkCall(net, None))
    refuse_noisy_modules(net.eval())
    refuse_noisy_modules(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.LayerNorm(3)).train())
    with pytest.raises(InvalidInput):
        refuse_noisy_modules(nn.BatchNorm1d(3))
    with pytest.raises(InvalidInput):
        refuse_noisy_modules(nn.MultiheadAttention(4, 2, dropout=0.1))


# guidance


def guided(net: nn.Module, guidance: Any, *, branches: Any = "batched", cond: Any = None, uncond: Any = None) -> Any:
    cond = torch.ones(2, 1) if cond is None else cond
    return GuidedDenoiser(Denoiser(net, VPLinear(), branches=branches), cond, uncond, guidance, x_of())


@pytest.mark.parametrize("branches", ["batched", "sequential"])
@pytest.mark.parametrize("guidance", [0.0, np.float32(5.0), torch.tensor(5.0), torch.tensor([2.0, 7.0])])
def test_guidance_is_the_papers(branches: str, guidance: Any) -> None:
    spy = Spy(torch.float64)
    cond, uncond = torch.full((2, 1), 3.0), torch.full((1, 1), -1.0)
    model = guided(spy, guidance, branches=branches, cond=cond, uncond=uncond)
    denoiser = model.denoiser
    conditional, empty = denoiser(x_of(), T, cond).eps, denoiser(x_of(), T, uncond.expand(2, 1)).eps
    s = guidance.double().reshape(-1, 1) if isinstance(guidance, Tensor) and guidance.ndim else guidance
    assert torch.allclose(model(x_of(), T).eps, s * conditional + (1 - s) * empty, atol=1e-12)
    assert model.counter.nfe == 1
    assert model.counter.network_calls == (1 if branches == "batched" else 2)
    assert model.counter.sample_evaluations == 4


@pytest.mark.parametrize("guidance", [1, 1.0, torch.ones(2), torch.tensor(1.0)])
def test_guidance_1_without_uncond_is_one_branch(guidance: Any) -> None:
    spy = Spy()
    guided(spy, guidance)(x_of(), T)
    assert len(spy.calls) == 1
    assert len(spy.calls[0][0]) == 2


def test_guidance_1_as_a_number_skips_the_other_branch() -> None:
    spy = Spy()
    guided(spy, 1.0, uncond=torch.zeros(2, 1))(x_of(), T)
    assert len(spy.calls[0][0]) == 2
    scale = torch.ones((), requires_grad=True)
    said = guided(spy, scale, uncond=torch.zeros(2, 1))(x_of(), T)
    assert len(spy.calls[1][0]) == 4
    assert float(torch.autograd.grad(said.eps.sum(), scale)[0]) != 0


def test_conditioning_trees() -> None:
    spy = Spy()
    cond = {"text": torch.ones(1, 4, 2), "pooled": [torch.ones(2, 5), None], "flag": 7}
    uncond = {"text": torch.zeros(2, 4, 2), "pooled": [torch.zeros(1, 5), None], "flag": 7}
    guided(spy, 3.0, cond=cond, uncond=uncond)(x_of(), T)
    seen = spy.calls[0][2]
    assert seen["text"].shape == (4, 4, 2)
    assert seen["pooled"][0].shape == (4, 5)
    assert seen["pooled"][1] is None
    assert seen["flag"] == 7
    assert [float(row.sum()) for row in seen["text"]] == [8.0, 8.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("guidance", "says"),
    [
        (torch.ones(3), r"\(2,\)"),
        (torch.ones(2, 1), r"\(2,\)"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (torch.tensor(math.nan), "finite"),
        ("5", "finite number"),
        (True, "finite number"),
    ],
)
def test_bad_guidance(guidance: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        guided(Spy(), guidance, uncond=torch.zeros(2, 1))


def test_conditioning_of_another_batch() -> None:
    for cond in (torch.ones(3, 1), {"text": [torch.ones(2, 1), torch.ones(4, 1)]}):
        with pytest.raises(InvalidInput, match="conditioning tensor"):
            guided(Spy(), 1.0, cond=cond)


def test_guidance_without_uncond() -> None:
    for guidance in (5.0, torch.tensor(2.0)):
        with pytest.raises(InvalidInput, match="uncond"):
            guided(Spy(), guidance)


def test_what_cannot_be_reached_is_refused() -> None:
    with pytest.raises(UnreachedGradient, match="no uncond"):
        guided(Spy(), torch.ones((), requires_grad=True))
    with pytest.raises(UnreachedGradient, match="guidance=1"):
        guided(Spy(), 1.0, uncond=torch.zeros(2, 1, requires_grad=True))


@pytest.mark.parametrize(
    "uncond",
    [{"text": torch.zeros(2, 4)}, {"text": torch.zeros(2, 4), "other": 1}, [torch.zeros(2, 4), 1], torch.zeros(2, 4)],
)
def test_branches_of_another_structure(uncond: Any) -> None:
    cond = {"text": torch.ones(2, 4), "flag": 1}
    with pytest.raises(InvalidInput, match="cond and uncond"):
        guided(Spy(), 3.0, cond=cond, uncond=uncond)(x_of(), T)


def test_a_value_without_batch_that_differs_needs_sequential_branches() -> None:
    cond, uncond = {"text": torch.ones(2, 1), "flag": 1}, {"text": torch.ones(2, 1), "flag": 2}
    with pytest.raises(InvalidInput, match="sequential"):
        guided(Spy(), 3.0, cond=cond, uncond=uncond)(x_of(), T)
    guided(Spy(), 3.0, cond=cond, uncond=uncond, branches="sequential")(x_of(), T)


def test_trees_keep_their_types() -> None:
    assert tree_map(lambda v: v + 1, {"a": [1, (2, 3)]}) == {"a": [2, (3, 4)]}
    assert list(tensors([1, {"a": T}, (T,)])) == [T, T]
    with pytest.raises(InvalidInput, match=r"cond\['a'\]\[0\]"):
        tree_zip(lambda a, b: a, {"a": [1]}, {"a": [[1]]})
