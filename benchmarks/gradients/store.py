"""Figures as they are measured, one JSON file a section, written after every row: a killed run loses one row."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.cost import processor

__all__ = ["Store"]


class Store:
    """The rows of one section by key; `path` None keeps them in memory only."""

    def __init__(self, path: Path | None, fresh: bool = False) -> None:
        self.path, self.rows = path, {}
        if path is not None and path.exists() and not fresh:
            self.rows = json.loads(path.read_text())["rows"]

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def put(self, key: str, row: Any) -> None:
        self.rows[key] = row
        print(f"{key}: {json.dumps(row)[:400]}", flush=True)
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".part")
        whole.write_text(json.dumps({"machine": machine(), "rows": self.rows}, indent=1) + "\n")
        os.replace(whole, self.path)


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
