"""Mixed precision: autocast around the sampler, and for float16, of products or of the weights, a scale on the loss.

Gradients that pass through float16 vanish below 6e-8, so the loss is multiplied by a power of two before backward and
the gradients are divided by it afterwards, which changes no digit of those that do not vanish.  A scale that is too
large shows as an infinite gradient: it is halved and the step is made again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["Precision"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST, LEAST, MOST, GROWS_AFTER = 2.0**16, 1.0, 2.0**24, 1000


class Precision:
    """`mode` is "no", "bf16" or "fp16"; `scale` is 1 but for fp16 and for networks whose `dtype` is float16."""

    def __init__(
        self, mode: str = "no", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.mode, self.device = mode, torch.device(device)
        self.scaled = mode == "fp16" or dtype == torch.float16
        self.scale = FIRST if self.scaled else 1.0
        self._good_steps = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """For the forward; a call that is replayed in backward is replayed under it."""
        return nullcontext() if self.mode == "no" else torch.autocast(self.device.type, dtype=DTYPES[self.mode])

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`, scaled; the gradients are right after `unscale`."""
        (loss if self.scale == 1 else loss.float() * self.scale).backward()  # type: ignore[no-untyped-call]

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divide the gradients by the scale; once a step, after the last backward."""
        if self.scale != 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self.scale)

    def lower(self) -> bool:
        """Halve the scale after an infinite gradient; False if that cannot help any more."""
        if not self.scaled or self.scale <= LEAST:
            return False
        self.scale, self._good_steps = self.scale / 2, 0
        return True

    def step_made(self) -> None:
        """After many good steps a larger scale is tried."""
        self._good_steps += 1
        if self.scaled and self._good_steps >= GROWS_AFTER:
            self.scale, self._good_steps = min(self.scale * 2, MOST), 0

    def state(self) -> dict[str, Any]:
        return {"scale": self.scale, "good_steps": self._good_steps}

    def restore(self, state: dict[str, Any]) -> None:
        self.scale, self._good_steps = float(state["scale"]), int(state["good_steps"])
