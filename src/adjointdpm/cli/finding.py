"""What `adjointdpm check` finds: one row of a report, for the tables and for the JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adjointdpm.gradients.check import Row

__all__ = ["DIFFERENCE", "Finding"]

DIFFERENCE = "finite difference"  # what `Row.against` says of one


@dataclass(frozen=True)
class Finding:
    """One row of a report, with the road and the number format that it was measured on."""

    road: str
    dtype: str
    row: Row

    @property
    def is_difference(self) -> bool:
        """A finite difference, which checks plain backprop; all other rows check an engine against plain backprop."""
        return self.row.against == DIFFERENCE

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self.row), "passed": self.row.passed, "road": self.road, "dtype": self.dtype}
