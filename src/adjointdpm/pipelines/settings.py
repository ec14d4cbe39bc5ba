"""How a generator runs: what is differentiated, by which road, solver and engine, in how much memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adjointdpm.errors import InvalidInput
from adjointdpm.replay.budget import Budget, parse_memory

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """The arguments of `differentiable`; see there.

    Raises:
        InvalidInput: values that do not fit together, whatever the pipeline.
    """

    wrt: tuple[str, ...] | None = None
    solver: Any = None
    spacing: str | None = None
    form: str | None = None
    gradient: Any = "exact"
    memory: int | float | str | Budget | None = None
    branches: str = "batched"
    guidance_interval: tuple[float, float] | None = None
    state_dtype: Any = None
    on_adjoint: Any = None

    def __post_init__(self) -> None:
        if self.branches not in ("batched", "sequential"):
            raise InvalidInput(f'branches={self.branches!r}: expected "batched" or "sequential"')
        if self.memory is not None:
            if not isinstance(self.memory, Budget):  # one that `ad.plan` reads after a call
                parse_memory(self.memory)
            if self.gradient != "exact":
                raise InvalidInput(
                    f'memory={self.memory!r} decides how gradient="exact" is computed, not {self.gradient!r}; leave '
                    "gradient= out"
                )
        if self.solver is None:
            self._check_pipeline_road()

    @property
    def road(self) -> str:
        """ "pipeline" or "ode"."""
        return "pipeline" if self.solver is None else "ode"

    def _check_pipeline_road(self) -> None:
        for name in ("spacing", "form", "guidance_interval", "state_dtype", "on_adjoint"):
            if getattr(self, name) is not None:
                raise InvalidInput(
                    f"{name}={getattr(self, name)!r} belongs to the ODE road: give a solver too, such as solver='ab4'"
                )
        if self.gradient not in ("exact", "full"):
            raise InvalidInput(
                f"gradient={self.gradient!r}: without solver= expected 'exact' or 'full'; the others need an ODE, so "
                "give solver= as well, such as solver='ab4'"
            )
        if self.branches == "sequential" and self.gradient == "full":
            raise InvalidInput('branches="sequential" splits calls that are replayed: expected gradient="exact"')
