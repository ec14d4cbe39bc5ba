"""What a plan says: a row for each engine, the choice, as plain text and as JSON-able numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

from adjointdpm.replay.budget import readable

__all__ = ["Plan", "PlanRow"]


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """One engine.

    Attributes:
        engine: its name, with its memory where that was given.
        exact: whether its gradient is that of the sampler.
        nfe: network evaluations of the forward (and of a backward that solves anew).
        vjps, recomputations: in backward, the decoder's included.
        peak_bytes: weights, states and graphs together: live tensors on a CPU, `max_memory_allocated` on CUDA.
        seconds: one forward and backward, text encoder and decoder included.
    """

    engine: str
    exact: bool
    nfe: int
    vjps: int
    recomputations: int
    peak_bytes: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Predicted costs.

    Attributes:
        rows: one for each engine.
        choice: the fastest exact engine within the memory.
        steps: sampling steps that were planned.
        memory: bytes allowed, or None.
        smallest: least bytes that an exact gradient needs.
    """

    rows: tuple[PlanRow, ...]
    choice: str
    steps: int
    memory: int | None
    smallest: int

    def __getitem__(self, engine: str) -> PlanRow:
        """The row of an engine."""
        return next(row for row in self.rows if row.engine == engine)

    def table(self) -> str:
        """Aligned plain text."""
        header = ("engine", "gradient", "NFE", "VJPs", "run again", "peak", "seconds")
        lines = [header] + [
            (
                row.engine,
                "exact" if row.exact else "approximate",
                str(row.nfe),
                str(row.vjps),
                str(row.recomputations),
                readable(row.peak_bytes),
                f"{row.seconds:.2f}",
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        text = [
            "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]
        within = "" if self.memory is None else f" within {readable(self.memory)}"
        text.append(
            f"Fastest exact gradient of {self.steps} steps{within}: {self.choice}. "
            f"An exact one needs {readable(self.smallest)} at least."
        )
        return "\n".join(line.rstrip() for line in text)

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return self.table()
