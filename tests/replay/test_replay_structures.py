"""Arguments and results of any structure."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers.utils import BaseOutput
from torch import Tensor, nn

import adjointdpm as ad
from adjointdpm.replay.structure import Slot, swapped, tensors_in
from tests.support.replay_nets import compare, state

Pair = namedtuple("Pair", "a b")


@dataclass
class Output(BaseOutput):
    sample: Tensor
    extra: Any = None


@dataclass(frozen=True)
class Frozen:
    a: Tensor
    b: list[Tensor] = field(default_factory=list)


class Plain:
    def __init__(self, a: Tensor, note: str = "kept") -> None:
        self.a, self.note, self.me = a, note, self  # refers to itself

    def twice(self) -> Tensor:
        return self.a * 2


class Apply(nn.Module):
    """Takes a structure, returns what `function` makes of it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.5))
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.w, *args, **kwargs)


a, b = state(0), state(1)
ARGUMENTS = {
    "positional": lambda net: net(a, b),
    "keyword": lambda net: net(x=a, y=b),
    "list": lambda net: net([a, [b, 3, "text", None]]),
    "tuple and dict": lambda net: net({"k": (a, {"deep": b}), "n": 1}),
    "named tuple": lambda net: net(Pair(a, [b])),
    "ordered dict": lambda net: net(OrderedDict(k=a, l=b)),
    "frozen dataclass": lambda net: net(Frozen(a, [b])),
    "plain object": lambda net: net(Plain(a), b),
    "diffusers output": lambda net: net(Output(sample=a, extra=[b])),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    def total(w: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found = tensors_in((args, kwargs))
        assert len(found) == 2
        return (w * found[0].sin() * found[1]).sum()

    net = Apply(total)
    compare(lambda: ARGUMENTS[name](net) * ARGUMENTS[name](net), [a, b, net.w], net)


RESULTS = {
    "tuple": (lambda w, x: (x * w, x.sin()), lambda r: r[0] * r[1]),
    "named tuple": (lambda w, x: Pair(x * w, [x.sin()]), lambda r: r.a * r.b[0]),
    "dict": (lambda w, x: {"o": x * w, "n": 3}, lambda r: r["o"] * r["n"]),
    "dataclass": (lambda w, x: Frozen(x * w, [x.sin()]), lambda r: r.a * r.b[0]),
    "plain object": (lambda w, x: Plain(x * w), lambda r: r.twice() * r.me.a),
    "diffusers output": (lambda w, x: Output(sample=x * w, extra=(x.sin(),)), lambda r: r.sample * r["extra"][0]),
    "with an integer": (lambda w, x: (x * w, x.argmax(), x > 0), lambda r: r[0] * r[1] * r[2]),
    "torch return type": (lambda w, x: torch.sort(x * w), lambda r: r.values * r.indices),
    "the same tensor twice": (lambda w, x: [x * w] * 2, lambda r: r[0] * r[1]),
    "views of one tensor": (lambda w, x: (x * w).chunk(2, 1), lambda r: r[0] * r[1]),
    "its argument": (lambda w, x: (x, x * w), lambda r: r[0] * r[1]),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results(name: str) -> None:
    function, use = RESULTS[name]
    net = Apply(function)
    compare(lambda: (use(net(a)) * use(net(b))).sum(), [a, b, net.w], net)


def test_result_keeps_its_type_and_what_is_no_tensor() -> None:
    net = Apply(lambda w, x: Output(sample=x * w, extra=Plain(x.sin(), "a note")))
    with ad.replay(net):
        result = net(a)
    assert type(result) is Output
    assert result.extra.note == "a note"
    assert result["sample"] is result.sample


def test_a_list_without_gradients_is_the_callers_own_and_written_once() -> None:
    """Code that reports into a list or dict it was given still does, and the replay does not report again."""
    report: list[float] = []

    def function(w: Tensor, x: Tensor, report: list[float]) -> Tensor:
        report.append(float(x.detach().sum()))
        return x * w

    net = Apply(function)
    with ad.replay(net, keep="none") as r:
        net(net(a, report), report).sum().backward()
    assert r.stats.recomputations == 2
    assert len(report) == 2


def test_a_dict_edited_after_the_call_does_not_change_its_replay() -> None:
    options = {"scale": 2.0, "c": b}
    net = Apply(lambda w, x, o: x * w * o["scale"] * o["c"])
    with ad.replay(net, keep="none"):
        y = net(a, options)
    options.update(scale=5.0, c=torch.zeros(()))
    (g,) = torch.autograd.grad(y.sum(), [a])
    assert torch.equal(g, (net.w * 2.0 * b).detach())


def test_patterns_leave_the_original_untouched() -> None:
    original = {"x": [a, Plain(b)]}
    found: list[Tensor] = []
    pattern = swapped(original, Tensor, lambda t: found.append(t) or Slot(len(found) - 1))
    assert original["x"][0] is a
    assert original["x"][1].a is b
    again = swapped(pattern, Slot, lambda s: found[s.index])
    assert again["x"][0] is a
    assert again["x"][1].a is b


def test_a_structure_that_holds_itself_ends() -> None:
    loop: list[Any] = [a]
    loop.append(loop)
    assert tensors_in(loop)[0] is a
