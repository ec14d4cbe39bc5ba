"""Small networks and loops for the tests of `ad.replay`, and the comparison with plain backprop."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import adjointdpm as ad
from adjointdpm.numerics import relative_error


class Field(nn.Module):
    """A network of a state, a time and an optional conditioning.  x: (B, 8), c: (B, 4)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.up, self.mix, self.down = nn.Linear(8, width), nn.Linear(4, width), nn.Linear(width, 8)

    def forward(self, x: Tensor, t: float | Tensor = 0.0, c: Tensor | None = None) -> Tensor:
        h = self.up(x) + t
        if c is not None:
            h = torch.tanh(h + self.mix(c)) + self.mix(c * h.mean())
        return self.down(torch.sin(h))


def state(seed: int = 0, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (3, 8), generator=generator, dtype=dtype).requires_grad_()


def euler(net: Callable[..., Tensor], z: Tensor, *rest: Any, steps: int = 5, **named: Any) -> Tensor:
    """The hand-written loop: `steps` calls, each from the last one's result."""
    x = z
    for n in range(steps):
        x = x - 0.1 * net(x, 1.0 - n / steps, *rest, **named)
    return x


def gradients(loss: Tensor, leaves: Iterable[Tensor]) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, list(leaves), allow_unused=True))


def same(got: Sequence[Tensor | None], want: Sequence[Tensor | None]) -> bool:
    """Bit equal, None where the other is None, and not all of them None."""
    pairs = list(zip(got, want, strict=True))
    return any(w is not None for _, w in pairs) and all(
        (g is None and w is None) or (g is not None and w is not None and torch.equal(g, w)) for g, w in pairs
    )


def close(got: Sequence[Tensor | None], want: Sequence[Tensor | None]) -> bool:
    """Equal to rounding: relative l2 error at most 1e-6 per tensor."""
    return all(relative_error(g, w) <= 1e-6 for g, w in zip(got, want, strict=True))


def compare(
    loss: Callable[[], Tensor], leaves: Sequence[Tensor], *modules: nn.Module, exact: bool = True, **options: Any
) -> Any:
    """Assert that value and gradients under replay are those of plain backprop, bit for bit; returns the replay.

    Not exact: only to rounding, where a call uses a tensor several times and the loop uses it too.
    """
    torch.manual_seed(7)
    plain = loss()
    want = gradients(plain, leaves)
    torch.manual_seed(7)
    with ad.replay(*modules, **options) as r:
        value = loss()
    torch.manual_seed(99)  # what the generator does between forward and backward must not matter
    got = gradients(value, leaves)
    assert torch.equal(value, plain)
    assert same(got, want) if exact else close(got, want)
    return r
