"""How often the network was run for a guidance run, across interruptions: a row for the start and for each step."""

from __future__ import annotations

from adjointdpm.runs import JsonlLog, RunFolder, read_jsonl
from adjointdpm.tasks.painter import Painter
from adjointdpm.tasks.team import Team

__all__ = ["Effort"]

FILE = "effort.jsonl"
KINDS = ("network_calls", "recomputations", "vjps")


class Effort:
    """`note(step)` after each step; `total()` adds what came after the last one (the final images)."""

    def __init__(self, run: RunFolder, painter: Painter, team: Team) -> None:
        self.painter, self.path = painter, run.path / FILE
        self.seen = dict.fromkeys(KINDS, 0)
        self.log = JsonlLog(self.path, 0 if run.resumed is None else run.resumed.step) if team.main else None
        if self.log is not None and run.resumed is None:
            self.note(0)
        else:
            self.seen = self._counts()  # what this session did to find its place again is nothing new

    def note(self, step: int) -> None:
        """Write what was done since the last note; the main process calls it."""
        assert self.log is not None
        self.log.write({"step": step, **self._since()})
        self.seen = self._counts()

    def total(self) -> dict[str, int]:
        """Of the main process: everything from the first call on; of the others: their own since they began."""
        if self.log is None:
            return self._counts()
        since = self._since()
        return {kind: sum(row[kind] for row in read_jsonl(self.path)) + since[kind] for kind in KINDS}

    def _counts(self) -> dict[str, int]:
        return {kind: getattr(self.painter, kind) for kind in KINDS}

    def _since(self) -> dict[str, int]:
        return {kind: value - self.seen[kind] for kind, value in self._counts().items()}
