"""What a network said at (x, t), kept raw; eps-hat, x_0-hat and v are computed when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from adjointdpm.models.convert import PredictionKind, coefficients

__all__ = ["Prediction"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """A network's output with what is needed to convert it.

    Attributes:
        raw, x: (B, ...) the output and the state it was asked at, in the state's dtype.
        kind: what `raw` is: eps, v, x0 or flow.
        t, alpha, sigma: 0-dim float64.
        rates: (alpha', sigma') of a flow network's clock.
    """

    raw: Tensor
    x: Tensor
    kind: PredictionKind
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    rates: tuple[Tensor, Tensor] | None = None

    def mix(self, p: Tensor | float, q: Tensor | float) -> Tensor:
        """p * x_0-hat + q * eps-hat, of the shape and dtype of x.

        Raises:
            InvalidInput: the mix does not exist at this alpha or sigma (see `convert.coefficients`).
        """
        a, b = coefficients(self.kind, p, q, self.alpha, self.sigma, self.rates)
        # The raw output stays in the sum at a = 0, so that a gradient of zero is still a gradient.
        return a * self.raw if bool(b == 0) else a * self.raw + b * self.x

    @property
    def eps(self) -> Tensor:
        """eps-hat, the predicted noise."""
        return self.mix(0.0, 1.0)

    @property
    def x0(self) -> Tensor:
        """x_0-hat, the predicted data."""
        return self.mix(1.0, 0.0)

    @property
    def v(self) -> Tensor:
        """v-hat = alpha eps-hat - sigma x_0-hat."""
        return self.mix(-self.sigma, self.alpha)
