"""Weights that change between a call and its backward raise; weights that only moved do not."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as ad
from adjointdpm.errors import WeightsChanged
from tests.support.replay_nets import Field, compare, euler, gradients, same, state


def step(net: nn.Module) -> None:
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(net.parameters(), lr=1e-3).step()


def in_place(net: Any) -> None:
    with torch.no_grad():
        net.down.weight[3, 5] += 1e-6


def data(net: Any) -> None:
    net.down.weight.data.mul_(1.0001)


def one_element(net: Any) -> None:
    net.mix.weight.data[2, 1] = 0.123


def sign(net: Any) -> None:
    net.up.weight.data.neg_()


def ema(net: Any) -> None:
    for p in net.parameters():
        p.data.copy_(0.999 * p.data)


def new_data(net: Any) -> None:
    net.up.weight.data = net.up.weight.data * 1.01


def buffer(net: Any) -> None:
    net.offset.data.add_(1e-3)


def narrower(net: Any) -> None:
    net.half()


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "optimizer step": (step, "up.weight"),
    "load_state_dict": (lambda net: net.load_state_dict(Shifted(5).state_dict()), "up.weight"),
    "in place": (in_place, "down.weight"),
    "data": (data, "down.weight"),
    "one element of data": (one_element, "mix.weight"),
    "sign of data": (sign, "up.weight"),
    "EMA swap": (ema, "up.weight"),
    "other data": (new_data, "up.weight"),
    "buffer": (buffer, "offset"),
    "conversion that loses digits": (narrower, "up.weight"),
}


class Shifted(Field):
    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.register_buffer("offset", torch.zeros(8))

    def forward(self, x: Tensor, t: float | Tensor = 0.0, c: Tensor | None = None) -> Tensor:
        return super().forward(x + self.offset, t, c)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_after_the_forward_raises_and_is_named(name: str, steps: int, frozen: bool) -> None:
    change, weight = CHANGES[name]
    net, z = Shifted().requires_grad_(not frozen), state()
    with ad.replay(net):
        loss = euler(net, z, steps=steps).sum()
    change(net)
    with pytest.raises(WeightsChanged, match=weight) as caught:
        loss.backward()
    assert "Call backward before the weights are changed" in str(caught.value)
    assert z.grad is None


@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"conversion that loses digits"}))
def test_a_change_within_the_loop_raises(name: str) -> None:
    net, z = Shifted().requires_grad_(False), state()
    with ad.replay(net):
        x = euler(net, z, steps=2)
        CHANGES[name][0](net)
        loss = euler(net, x, steps=2).sum()
    with pytest.raises(WeightsChanged):
        loss.backward()


def test_a_change_between_two_backwards_of_the_same_graph_raises() -> None:
    net, z = Shifted(), state()
    with ad.replay(net):
        loss = euler(net, z).sum()
    loss.backward(retain_graph=True)
    data(net)
    with pytest.raises(WeightsChanged):
        loss.backward()


def test_weights_swapped_for_some_calls_and_back_by_data_raise() -> None:
    """An EMA that is active for two calls only and bumps no counter: the weights are right again at backward."""
    net, z = Shifted().requires_grad_(False), state()
    stored = [p.detach().clone() for p in net.parameters()]
    with ad.replay(net):
        x = euler(net, z, steps=2)
        ema(net)
        x = euler(net, x, steps=2)
        for p, s in zip(net.parameters(), stored, strict=True):
            p.data.copy_(s)
        loss = euler(net, x, steps=2).sum()
    with pytest.raises(WeightsChanged):
        loss.backward()


def test_a_merged_lora_raises() -> None:
    peft = pytest.importorskip("peft")
    net = peft.get_peft_model(Field(), peft.LoraConfig(r=2, target_modules=["up"], init_lora_weights=False))
    z = state()
    with ad.replay(net):
        loss = euler(net, z).sum()
    net.merge_adapter()
    with pytest.raises(WeightsChanged, match=r"up\.base_layer\.weight"):
        loss.backward()


def test_a_lora_merged_for_some_calls_raises() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    net = peft.get_peft_model(Field(), peft.LoraConfig(r=2, target_modules=["up"], init_lora_weights=False))
    z = state()
    with ad.replay(net):
        x = euler(net, z, steps=2)
        net.merge_adapter()
        loss = euler(net, x, steps=2).sum()
        net.unmerge_adapter()
    with pytest.raises(WeightsChanged):
        loss.backward()


def rewrite(net: nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.clone())


@pytest.mark.parametrize(
    "move",
    [
        lambda net: net.double().float(),  # up and back
        lambda net: [setattr(p, "data", p.data.clone()) for p in net.parameters()],  # to other memory
        rewrite,  # equal values, counters moved
    ],
)
@pytest.mark.parametrize("keep", ["last", "none"])
def test_weights_that_only_moved_are_no_false_alarm(move: Any, keep: str) -> None:
    net, z = Shifted().requires_grad_(False), state()
    want = gradients(euler(net, z).sum(), [z])
    with ad.replay(net, keep=keep):
        value = euler(net, z).sum()
    move(net)
    assert same(gradients(value, [z]), want)


def test_new_parameter_objects_leave_the_old_ones_to_the_replay() -> None:
    net, z = Shifted(), state()
    old = [z, *net.parameters()]
    want = gradients(euler(net, z).sum(), old)
    with ad.replay(net):
        value = euler(net, z).sum()
    net.load_state_dict(Shifted(5).state_dict(), assign=True)
    new = [id(p) for p in net.parameters()]
    assert same(gradients(value, old), want)
    assert [id(p) for p in net.parameters()] == new


def test_a_weight_frozen_or_trained_within_the_loop() -> None:
    net, z = Field(), state()

    def loss() -> Tensor:
        net.requires_grad_(False)
        x = euler(net, z, steps=2)
        net.requires_grad_(True)
        return euler(net, x, steps=2).sum()

    compare(loss, [z, *net.parameters()], net, keep="none")


def test_online_training_inside_the_block() -> None:
    """Forward, backward, step, again: each result is done with before the weights change."""
    z = state()

    def train(net: nn.Module, replayed: bool) -> list[Tensor]:
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
        with ad.replay(net) if replayed else torch.enable_grad():
            for _ in range(3):
                optimizer.zero_grad()
                euler(net, z.detach()).square().sum().backward()
                optimizer.step()
        return [p.detach() for p in net.parameters()]

    assert same(train(Shifted(), True), train(Shifted(), False))


@pytest.mark.parametrize("borrows", [True, False], ids=["in place", "by hooks"])
def test_sums_of_weights_leave_the_users_grad_alone(monkeypatch: pytest.MonkeyPatch, borrows: bool) -> None:
    """Sums are made in the weights' `.grad` for a while, or by hooks where others listen to it (DDP)."""
    if not borrows:
        monkeypatch.setattr(sys.modules["adjointdpm.replay.call"], "can_borrow", lambda tensors: False)
    torch.manual_seed(0)
    net, z = Field(2048), state()  # small weights and one large enough for a hook
    seen: list[int] = []
    net.up.weight.register_post_accumulate_grad_hook(lambda _: seen.append(1))
    leaves = [z, *net.parameters()]
    want = gradients(euler(net, z).square().sum(), leaves)
    mine = [torch.full_like(p, 7.0) for p in net.parameters()]
    for p, grad in zip(net.parameters(), mine, strict=True):
        p.grad = grad
    with ad.replay(net):
        loss = euler(net, z).square().sum()
    assert same(gradients(loss, leaves), want)
    assert all(p.grad is grad and bool((grad == 7).all()) for p, grad in zip(net.parameters(), mine, strict=True))
    assert not seen
    with ad.replay(net):
        euler(net, z).square().sum().backward()
    assert seen == [1]  # once, on the total, not once for each call
    reached = [(p.grad, w) for p, w in zip(net.parameters(), want[1:], strict=True) if w is not None]
    assert all(torch.equal(g, 7 + w) for g, w in reached)  # type: ignore[operator]


def test_an_error_in_backward_gives_the_users_grad_back() -> None:
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken on purpose")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
            return self.inner(Breaks.apply(x))  # type: ignore[no-untyped-call, no-any-return]

    net, z = Net(), state()
    mine = torch.ones(8, 8)
    net.inner.weight.grad = mine
    with ad.replay(net):
        loss = euler(net, z).sum()
    with pytest.raises(RuntimeError, match="on purpose"):
        loss.backward()
    assert net.inner.weight.grad is mine
    assert bool((mine == 1).all())
