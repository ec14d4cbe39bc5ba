"""Gradient engines: how the gradient of a whole solve is computed, each against the same solver and ODE."""

from __future__ import annotations

import importlib

from adjointdpm.errors import InvalidInput
from adjointdpm.gradients.base import AdjointCallback, Engine, SolveSpec, SolveStats

__all__ = ["ENGINES", "AdjointCallback", "Engine", "SolveSpec", "SolveStats", "make_engine"]

ENGINES = {
    "exact": "adjointdpm.gradients.exact:Exact",
    "full": "adjointdpm.gradients.full:Full",
    "adjoint": "adjointdpm.gradients.adjoint:Adjoint",
    "reversible": "adjointdpm.gradients.reversible:Reversible",
    "truncated": "adjointdpm.gradients.truncated:Truncated",
    "random_truncation": "adjointdpm.gradients.truncated:RandomTruncation",
    "one_step": "adjointdpm.gradients.truncated:OneStep",
}


def make_engine(engine: str | Engine) -> Engine:
    """An engine by name with its default settings, or the one passed.  Raises InvalidInput for an unknown name."""
    if isinstance(engine, Engine):
        return engine
    if engine not in ENGINES:
        raise InvalidInput(f"gradient={engine!r} is unknown; choose one of {', '.join(ENGINES)}")
    module, name = ENGINES[engine].split(":")
    made: Engine = getattr(importlib.import_module(module), name)()
    return made
