"""`adjointdpm check`: the gradient error of each engine on one's own model, and what it is held against.

Two roads are checked.  The pipeline road runs the model's own scheduler under replay (`exact`).  The ODE road runs the
probability-flow ODE with `exact`, the continuous adjoint as the library solves it (`adjoint`) and as the paper does
(`adjoint:paper`).  Each is compared with plain backprop through the same call; plain backprop itself is compared with
a directional finite difference, in float64 on the ODE road, where the whole computation can be done in it.
"""

from __future__ import annotations
