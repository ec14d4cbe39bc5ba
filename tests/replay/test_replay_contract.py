"""What `ad.replay` promises beside the values: cost, memory, PyTorch's manners, clear errors, nothing left behind."""

import copy
import gc
import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as ad
from adjointdpm.errors import AdjointDPMError, InvalidInput, PerformanceWarning, UnreachedGradient
from adjointdpm.numerics import LiveTensorMeter
from tests.support.replay_nets import Field, compare, euler, gradients, same, state


def counts(r: Any) -> tuple[int, int, int]:
    return r.stats.forwards, r.stats.recomputations, r.stats.vjps


class Recording(Field):
    """Writes down the time argument of every run."""

    def forward(self, x: Tensor, t: float | Tensor = 0.0, c: Tensor | None = None) -> Tensor:
        RUNS.append(t)
        return super().forward(x, t, c)


RUNS: list[Any] = []


@pytest.mark.parametrize(
    ("keep", "again"),
    [("last", [3, 2, 1, 0]), (1, [3, 2, 1, 0]), ("none", [4, 3, 2, 1, 0]), (0, [4, 3, 2, 1, 0]), (3, [1, 0]), (9, [])],
)
def test_which_calls_are_run_again_and_in_which_order(keep: Any, again: list[int]) -> None:
    net, z = Recording(), state()
    RUNS.clear()
    with ad.replay(net, keep=keep) as r:
        x = z
        for n in range(5):
            x = x - 0.1 * net(x, n)
    assert counts(r) == (5, 0, 0)
    x.sum().backward()
    assert counts(r) == (5, len(again), 5)
    assert [0, 1, 2, 3, 4, *again] == RUNS


def test_keep_modules() -> None:
    a, b, z = Field(), Field(), state()
    r = compare(lambda: euler(b, euler(a, z, steps=3), steps=2).sum(), [z, *a.parameters()], a, b, keep=a)
    assert counts(r) == (5, 2, 5)
    r = compare(lambda: euler(b, euler(a, z, steps=3), steps=2).sum(), [z], a, b, keep=[a, b])
    assert counts(r) == (5, 0, 5)


@pytest.mark.parametrize("keep", ["first", -1, [3]])
def test_bad_keep(keep: Any) -> None:
    with pytest.raises(InvalidInput, match="keep"):
        ad.replay(Field(), keep=keep)


@pytest.mark.parametrize("weights", [False, True])
def test_memory_is_flat_in_the_number_of_calls(weights: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(4))).requires_grad_(weights)
    z = state(0, 32, 64)

    def peak(steps: int, replayed: bool) -> int:
        gc.collect()
        with LiveTensorMeter() as meter:
            x = z
            with ad.replay(net) if replayed else torch.enable_grad():
                for _ in range(steps):
                    x = x - 0.1 * net(x)
            torch.autograd.grad(x.sum(), [z, *(p for p in net.parameters() if p.requires_grad)])
        return meter.peak_bytes

    few, many = peak(10, True), peak(40, True)
    states = 30 * z.numel() * 4 * 3  # x, the call's input and its result are kept: the trajectory
    assert many <= few + states * 1.1
    assert many < 0.6 * peak(40, False)
    one = peak(1, False)
    assert few <= one + 10 * z.numel() * 4 * 3 + sum(p.numel() * 4 for p in net.parameters()) * weights * 1.1


def test_weight_gradients_are_held_once() -> None:
    net, z = nn.Sequential(*(nn.Linear(256, 256) for _ in range(8))), state(0, 1, 256)
    size = sum(p.numel() * 4 for p in net.parameters())

    def loop() -> Tensor:
        x = z
        for _ in range(6):
            x = x + net(x)
        return x.sum()

    with LiveTensorMeter() as meter, ad.replay(net):
        torch.autograd.grad(loop(), list(net.parameters()))
    assert size < meter.peak_bytes < 1.4 * size


def test_second_backward_raises_as_pytorchs_does_and_retain_graph_works() -> None:
    net, z = Field(), state()
    plain = euler(net, z).sum()
    want = gradients(plain, [z, *net.parameters()])
    with ad.replay(net) as r:
        loss = euler(net, z).sum()
    leaves = [z, *net.parameters()]
    for _ in range(2):
        assert same(torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True), want)
    assert same(gradients(loss, leaves), want)
    assert counts(r) == (5, 4 + 5 + 5, 15)
    with pytest.raises(RuntimeError, match="second time"):
        gradients(loss, leaves)


def test_second_derivative_raises() -> None:
    net, z = Field(), state()
    with ad.replay(net):
        loss = euler(net, z).square().sum()
    (g,) = torch.autograd.grad(loss, [z], create_graph=True)
    assert same([g], gradients(euler(net, z).square().sum(), [z]))
    with pytest.raises(RuntimeError, match="first derivatives only"):
        g.sum().backward()


def test_calls_without_gradient_run_as_if_nothing_were_there() -> None:
    net, x = Field().requires_grad_(False), torch.randn(3, 8)
    with ad.replay(net) as r:
        y = net(x)
        assert y.grad_fn is None
        assert not y.requires_grad
        with torch.no_grad():
            assert not net(state()).requires_grad
        with torch.inference_mode():
            assert net(x).is_inference()
    assert counts(r) == (3, 0, 0)


def test_only_weights_require_grad() -> None:
    net = Field()
    compare(lambda: euler(net, torch.ones(3, 8)).sum(), list(net.parameters()), net)


def test_nothing_is_left_behind() -> None:
    net = nn.ModuleDict({"a": Field(), "b": nn.Sequential(Field())})
    before = [(m, dict(vars(m))) for m in net.modules()]
    with ad.replay(net["a"], net["b"]):
        loss = (euler(net["a"], state()) + net["b"](state())).sum()
        assert "forward" in vars(net["a"])
    for module, attributes in before:
        assert vars(module) == attributes
    loss.backward()
    for module, attributes in before:
        assert vars(module) == attributes


def test_an_own_forward_comes_back() -> None:
    net, z = Field(), state()
    original = net.forward
    mine = lambda *a, **k: original(*a, **k) * 2  # noqa: E731
    net.forward = mine  # as offload hooks do
    compare(lambda: euler(net, z).sum(), [z, *net.parameters()], net)
    assert vars(net)["forward"] is mine


@pytest.mark.parametrize("where", ["loop", "module", "backward"])
def test_after_an_exception_everything_works_again(where: str) -> None:
    class Failing(Field):
        fail = False

        def forward(self, x: Tensor, t: float | Tensor = 0.0, c: Tensor | None = None) -> Tensor:
            if Failing.fail and t < 0.7:
                raise KeyError("boom")
            return super().forward(x, t, c)

    net, z = Failing(), state()
    before = dict(vars(net))
    with pytest.raises(KeyError, match="boom"), ad.replay(net):  # noqa: PT012
        Failing.fail = where == "module"
        loss = euler(net, z).sum()
        if where == "loop":
            raise KeyError("boom")
        Failing.fail = True
        loss.backward()
    Failing.fail = False
    assert vars(net) == before
    compare(lambda: euler(net, z).sum(), [z, *net.parameters()], net)


def test_nested_modules_and_nested_contexts() -> None:
    inner, z = Field(), state()
    outer = nn.Sequential(inner, nn.Tanh())
    r = compare(lambda: (outer(z) + inner(z).sin()).sum(), [z, *inner.parameters()], outer, inner, exact=False)
    assert counts(r) == (2, 1, 2)
    with ad.replay(inner) as first, ad.replay(inner) as second:
        loss = euler(inner, z).sum()
    got = gradients(loss, [z])
    assert same(got, gradients(euler(inner, z).sum(), [z]))
    assert (first.stats.forwards, second.stats.forwards) == (0, 5)
    assert "forward" not in vars(inner)


def test_contexts_closed_in_the_wrong_order_leave_no_replay_behind() -> None:
    net, z = Field(), state()
    a, b = ad.replay(net), ad.replay(net)
    a.__enter__()
    b.__enter__()
    a.__exit__(None, None, None)
    b.__exit__(None, None, None)
    assert net(z).grad_fn.name() == "AddmmBackward0"


def test_reopening_an_open_one_raises() -> None:
    with ad.replay(Field()) as r, pytest.raises(InvalidInput, match="already open"):
        r.__enter__()


def test_signature_and_deepcopy_of_a_patched_module() -> None:
    net, z = Field(), state()
    plain = inspect.signature(net.forward)
    with ad.replay(net) as r:
        assert inspect.signature(net.forward) == plain
        twin = copy.deepcopy(net)
        with torch.no_grad():
            twin.down.bias += 1
        assert not torch.equal(twin(z), net(z))
    assert r.stats.forwards == 1


@pytest.mark.parametrize("bad", [(), ("unet",), (Field,)])
def test_not_a_module(bad: Any) -> None:
    with pytest.raises(InvalidInput, match=r"module|Module"):
        ad.replay(*bad)


def test_inference_tensors_are_named() -> None:
    net, z = Field(), state()
    with torch.inference_mode():
        c = torch.ones(3, 4)
    with ad.replay(net), pytest.raises(InvalidInput, match=r"\(3, 4\).*inference_mode"):
        net(z, 0.0, c)


def test_arguments_edited_in_place_by_the_loop() -> None:
    net, z = Field().requires_grad_(False), state()

    def loss() -> Tensor:
        x, t = z * 1, torch.zeros(3, 1)  # one buffer for all timesteps
        for n in range(4):
            t.fill_(1 - n / 4)
            x.add_(net(x, t), alpha=-0.1)
        return x.sum()

    compare(loss, [z], net)


def test_argument_edited_in_place_by_the_module() -> None:
    class Editing(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            c.add_(1)
            return x * c.clone()

    net, z = Editing(), state()

    def loss() -> Tensor:
        c = torch.ones(8)
        x = net(net(net(z, c), c), c)
        assert c[0] == 4
        return x.sum()

    for _ in range(2):
        compare(loss, [z], net)
    with ad.replay(net), pytest.raises(InvalidInput, match="in place"):
        net(torch.ones(3, 8), state(0, 8) * 1)


def test_a_parameter_passed_as_an_argument_is_not_copied_but_guarded() -> None:
    net, z, w = Field(), state(), nn.Parameter(torch.randn(3, 4))
    compare(lambda: euler(net, z, w).sum(), [z, w], net)
    with ad.replay(net):
        loss = euler(net, z, w).sum()
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(InvalidInput, match="edited in place after the call"):
        loss.backward()


def test_conditioning_of_all_calls_is_copied_once_and_the_latents_not_held_twice() -> None:
    z, c = state(), torch.randn(1000, 4)

    class First(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return x * c[:3].mean()

    first = First()
    with LiveTensorMeter() as meter, ad.replay(first):
        loss = euler(lambda x, t: first(x, c), z, steps=20).sum()
    assert meter.live_bytes < 1.5 * c.numel() * 4 + 20 * 3 * z.numel() * 4
    loss.backward()


def test_result_edited_in_place_by_the_loop() -> None:
    net, z = Field(), state()

    def loss() -> Tensor:
        x = z
        for _ in range(3):
            e = net(x)
            e.mul_(0.1).add_(1)
            x = x - e
        return x.sum()

    compare(loss, [z, *net.parameters()], net)


def test_learnt_tensor_in_a_closure_or_attribute_raises() -> None:
    class Processor:
        def __init__(self) -> None:
            self.learnt: Tensor | None = torch.zeros(7, 8, requires_grad=True)

        def __call__(self, x: Tensor) -> Tensor:
            return x if self.learnt is None else x + (self.learnt * 2).sum(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.processor = Processor()

        def forward(self, x: Tensor) -> Tensor:
            return self.processor(x.sin())

    net, z = Net(), state()
    for _ in range(2):  # not only the first time
        with ad.replay(net), pytest.raises(UnreachedGradient, match=r"\(7, 8\).*Pass it as an argument"):
            net(z)
    direct = nn.Module()
    direct.forward = lambda x: (x.sin(), z)  # type: ignore[method-assign]
    with ad.replay(direct), pytest.raises(UnreachedGradient, match=r"\(3, 8\)"):
        direct(state(1))
    plain, net.processor = net.processor, Processor()
    net.processor.learnt = None
    with ad.replay(net):
        x = net(net(z))
        net.processor = plain  # swapped in later
        with pytest.raises(UnreachedGradient):
            net(x)


def test_feature_that_leaves_a_call_by_another_way_raises() -> None:
    class Store(Field):
        def forward(self, x: Tensor, t: float | Tensor = 0.0, c: Tensor | None = None) -> Tensor:
            STORE.append(x.sin())
            return super().forward(x, t, c)

    STORE: list[Tensor] = []
    net, z = Store(), state()
    with ad.replay(net):
        y = net(z)
    with pytest.raises(UnreachedGradient, match="another way than its result"):
        (y.sum() + STORE[0].sum()).backward()


def test_a_result_that_differs_when_replayed_is_reported() -> None:
    class Moody(nn.Module):
        def forward(self, x: Tensor) -> Any:
            RUNS.append(x)
            return [x.sin()] * 1 if len(RUNS) > 1 else [x.sin(), x.cos()]

    RUNS.clear()
    net, z = Moody(), state()
    with ad.replay(net, keep="none"):
        a, b = net(z)
    with pytest.raises(AdjointDPMError, match="when replayed"):
        (a + b).sum().backward()


def test_module_compiled_in_place_runs_uncompiled_and_says_so() -> None:
    net, z = Field(), state()
    want = gradients(euler(net, z).sum(), [z])
    net.compile(backend="eager")
    compiled = net._compiled_call_impl
    with warnings.catch_warnings(record=True) as caught, ad.replay(net):
        value = euler(net, z).sum()
    assert [w.category for w in caught if "compiled in place" in str(w.message)] == [PerformanceWarning]
    assert same(gradients(value, [z]), want)
    assert net._compiled_call_impl is compiled


def test_nothing_stays_alive_when_results_are_dropped() -> None:
    net = Field(width=64)
    gc.collect()
    with LiveTensorMeter() as meter:
        z = state(0, 100, 8)
        with ad.replay(net) as r:
            y = euler(net, z)
            del y
            x = euler(net, z)
        x.sum().backward()
        del x
        gc.collect()
        gradients_and_z = 2 * z.numel() * 4 + sum(p.numel() * 4 for p in net.parameters())
    assert meter.live_bytes <= gradients_and_z + 6000  # random states and probes of the last calls
    assert r.stats.forwards == 10


def test_no_reference_cycles() -> None:
    """Graphs are freed when the last result is dropped, not when the garbage collector comes by."""
    net, z = Field(), state()
    gc.collect()
    gc.disable()
    try:
        with LiveTensorMeter() as meter:
            for _ in range(3):
                with ad.replay(net):
                    loss = euler(net, z).sum()
                torch.autograd.grad(loss, [z])
                del loss
                with ad.replay(net):
                    euler(net, z)
        assert meter.live_bytes < 20_000
    finally:
        gc.enable()
