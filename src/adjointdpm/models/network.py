"""The border to the network: the one place where dtypes are cast, and the module that `replay` replays.

State and coefficients live in the state's dtype and in float64; a network in its own.  Everything that crosses does so
in `NetworkCall.forward`, so a replayed call stores the state once and nothing derived from it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput
from adjointdpm.models.tree import tree_map, tree_zip

__all__ = ["NetworkCall", "refuse_noisy_modules"]

LARGE = 256  # a container of more items holds data, not the parts of a network


class NetworkCall(nn.Module):
    """`net(x, t, cond) -> Tensor` as a module whose parameters are all those that the call can reach.

    A plain callable is accepted: modules and tensors that it closes over, or that it is bound to, are found and
    registered, because a weight that autograd does not see would silently get no gradient.
    """

    def __init__(self, net: Callable[..., Any], dtype: torch.dtype | None, modules: tuple[nn.Module, ...] = ()) -> None:
        super().__init__()
        if not callable(net):
            raise InvalidInput(f"net must be a module or a function of (x, t, cond), got {type(net).__name__}")
        self.net = net
        hidden = [m for m in reached_by(net) if isinstance(m, nn.Module) and m is not net]
        self.hidden = nn.ModuleList([*modules, *hidden])
        for i, tensor in enumerate(t for t in reached_by(net) if isinstance(t, Tensor)):
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(f"hidden_{i}", tensor)
            else:
                self.register_buffer(f"hidden_{i}", tensor, persistent=False)
        first = next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
        self.dtype = dtype if dtype is not None else first

    def forward(self, x: Tensor, t: Tensor, *conds: Any) -> Tensor:
        """The network's output for x (B, ...) at time t (0-dim), one batch of k*B for k conditionings.

        Returns (k*B, ...) in the dtype of x.
        """
        dtype, batch = self.dtype or x.dtype, len(x) * len(conds)
        cond = conds[0] if len(conds) == 1 else tree_zip(_cat_leaf, *conds)
        cond = tree_map(lambda leaf: _cast(leaf, dtype), cond)
        x_net = (x if len(conds) == 1 else torch.cat([x] * len(conds))).to(dtype)
        t_net = t.to(x.device, torch.float64 if dtype == torch.float64 else torch.float32).expand(batch)
        out = self.net(x_net, t_net, cond)
        if not isinstance(out, Tensor) or out.shape != x_net.shape:
            got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise InvalidInput(f"the network must return a tensor of the shape of x, {tuple(x_net.shape)}; got {got}")
        return out.to(x.dtype)


def _cast(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _cat_leaf(first: Any, second: Any) -> Any:
    """Two conditionings as one batch; what is not a tensor must be the same in both."""
    if isinstance(first, Tensor) and isinstance(second, Tensor) and first.ndim and second.ndim:
        return torch.cat([first, second.to(first.dtype)])
    if first is second or (not isinstance(first, Tensor) and not isinstance(second, Tensor) and first == second):
        return first
    raise InvalidInput(
        "cond and uncond differ in a value that has no batch dimension, so they cannot be one batch: "
        'use Denoiser(..., branches="sequential")'
    )


def reached_by(net: Any, depth: int = 4) -> Iterator[nn.Module | Tensor]:
    """Modules, and tensors requiring grad, that a callable reaches in `depth` links.

    A link is: the function or arguments of a partial, the object of a bound method, a variable of a function's closure
    or a global it names, an item of a small container, an attribute of an object.
    """
    seen: set[int] = set()

    def walk(item: Any, depth: int) -> Iterator[nn.Module | Tensor]:
        if id(item) in seen:
            return
        seen.add(id(item))
        if isinstance(item, nn.Module) or (isinstance(item, Tensor) and item.requires_grad):
            yield item
        elif depth > 0 and not isinstance(item, Tensor):
            for value in _links(item):
                yield from walk(value, depth - 1)

    yield from walk(net, depth)


def _links(item: Any) -> list[Any]:
    """What an object refers to, as far as a network could use it."""
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if inspect.ismethod(item):
        return [item.__self__, item.__func__]
    if inspect.isfunction(item):
        variables = inspect.getclosurevars(item)
        return [*variables.nonlocals.values(), *variables.globals.values(), *(item.__defaults__ or ())]
    if isinstance(item, dict | list | tuple):
        items = list(item.values() if isinstance(item, dict) else item)
        return items if len(items) <= LARGE else []
    if inspect.ismodule(item) or inspect.isclass(item):
        return []
    return list(getattr(item, "__dict__", {}).values())


def refuse_noisy_modules(module: nn.Module) -> None:
    """Raise InvalidInput if a submodule in train mode makes the network random or changes its buffers."""
    noisy = []
    for name, child in module.named_modules():
        drops = float(getattr(child, "p", 0) or 0) > 0 and isinstance(child, nn.modules.dropout._DropoutNd)
        attends = isinstance(child, nn.MultiheadAttention) and child.dropout > 0
        norms = isinstance(child, nn.modules.batchnorm._BatchNorm) and child.track_running_stats
        if child.training and (drops or attends or norms):
            noisy.append(name.removeprefix("net.") or type(child).__name__)
    if noisy:
        shown = ", ".join(noisy[:3]) + (f" and {len(noisy) - 3} more" if len(noisy) > 3 else "")
        raise InvalidInput(f"the network is in train mode and {shown} would act at random: call net.eval() first")
