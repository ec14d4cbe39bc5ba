"""The one table of conversions between what a network predicts and what a sampler needs.

With x = alpha x_0 + sigma eps, every quantity of a sampler is a mix p x_0-hat + q eps-hat (x_0-hat: p, q = 1, 0;
eps-hat: 0, 1; the fields of the three ODE forms: see `ode`), and every network's output is linear in the same two.
So a conversion is a pair of numbers: p x_0-hat + q eps-hat = a * raw + b * x.  They are computed in float64, and a
division by alpha or sigma happens only where the mix needs it: an eager conversion would put 0 * inf = NaN into the
backward of a last step that never used it.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from adjointdpm.errors import InvalidInput

__all__ = ["PredictionKind", "coefficients"]

PredictionKind = Literal["eps", "v", "x0", "flow"]


def coefficients(
    kind: PredictionKind,
    p: Tensor | float,
    q: Tensor | float,
    alpha: Tensor,
    sigma: Tensor,
    rates: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor | float, Tensor | float]:
    """(a, b) such that p * x_0-hat + q * eps-hat = a * raw + b * x.

    Args:
        kind: what the network predicts: `eps`; `v` = alpha eps - sigma x_0; `x0`; `flow` = alpha' x_0 + sigma' eps.
        p, q: the mix that is asked for, numbers or 0-dim float64.
        alpha, sigma: the marginal's coefficients, 0-dim float64.
        rates: (alpha', sigma') of a flow network's clock; needed for `flow` only.

    Raises:
        InvalidInput: the mix does not exist there: x_0-hat of an eps network at alpha = 0, eps-hat of an x0 network at
            sigma = 0.
    """
    if kind == "eps":
        if bool(p == 0):
            return q, 0.0
        if bool(alpha == 0):
            raise InvalidInput(
                "an eps network says nothing about x_0 at alpha = 0, so no form of the ODE can start there: use a "
                "smaller t_start (prediction v, x0 and flow can start at alpha = 0 with form='angle')"
            )
        return q - p * sigma / alpha, p / alpha
    if kind == "x0":
        if bool(q == 0):
            return p, 0.0
        if bool(sigma == 0):
            raise InvalidInput(
                "an x0 network says nothing about eps at sigma = 0: end at t_end > 0 (prediction eps and v work there)"
            )
        return p - q * alpha / sigma, q / sigma
    if kind == "v":
        norm = alpha**2 + sigma**2
        return (q * alpha - p * sigma) / norm, (p * alpha + q * sigma) / norm
    if rates is None:
        raise InvalidInput("a flow conversion needs the rates (alpha', sigma') of its clock")
    d_alpha, d_sigma = rates
    wronskian = alpha * d_sigma - sigma * d_alpha
    return (q * alpha - p * sigma) / wronskian, (p * d_sigma - q * d_alpha) / wronskian
