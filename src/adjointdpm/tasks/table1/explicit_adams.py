"""torchdiffeq's `explicit_adams`, the paper's solver, on our ODE forms.

`odeint(..., t=grid, method="explicit_adams", options={"max_order": 5})` walks the whole grid with one history: unlike
`odeint_adjoint`'s backward it does not start again in every interval (`FixedGridODESolver.integrate` of torchdiffeq
0.2.5).  max_order 5 keeps four fields, so it is AB4.  A decreasing grid is integrated as it is.

Its coefficients are those of equal steps.  On steps that change smoothly from one to the next they still add up to 1,
but the moments beyond the first are those of another grid, so the method falls from fourth order to second, with an
error that grows with the ratio of neighbouring steps.  A user of torchdiffeq gets that silently, so it is measured as
it is.
"""

from __future__ import annotations

import importlib.util

from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.ode import ODE
from adjointdpm.schedules import Grid

__all__ = ["MAX_ORDER", "explicit_adams", "need_torchdiffeq"]

MAX_ORDER = 5


def need_torchdiffeq() -> None:
    """Raise InvalidInput, naming the extra, if torchdiffeq is not installed."""
    if importlib.util.find_spec("torchdiffeq") is None:
        raise InvalidInput(
            "the paper's solver explicit_adams is torchdiffeq's, not installed: pip install 'adjointdpm[paper]'"
        )


def explicit_adams(ode: ODE, x: Tensor, grid: Grid) -> Tensor:
    """The states at all nodes, (steps + 1, B, ...), from the sample x (B, ...) at the first; x's dtype, float64 best.

    torchdiffeq casts the clock to the dtype of the state, and a float32 clock would miss the nodes.
    """
    need_torchdiffeq()
    from torchdiffeq import odeint

    first, last = grid.t[0], grid.t[-1]

    def field(u: Tensor, y: Tensor) -> Tensor:
        t = ode.time(u.cpu())
        # derivatives of the raw form are one-sided, of the interval that lies ahead (at the last node: behind)
        return ode.field(y, t, towards=last if bool(t > last) else first)

    clock = ode.clock(grid.t).to(x.device)
    path: Tensor = odeint(
        field, ode.to_state(x, first), clock, method="explicit_adams", options={"max_order": MAX_ORDER}
    )
    return path
