"""Writes docs/table1.md: `python -m studies.table1` from the committed figures, `... RUN` from a finished run.

A run is made by `adjointdpm table1 --out RUN`.  Its figures are copied to `studies/table1/results.json` and its sample
strips to `docs/img`; without one, the page and its chart are written again from what is committed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from adjointdpm.runs import atomic_write
from adjointdpm.tasks.table1.chart import error_chart
from adjointdpm.tasks.table1.outcome import RESULTS_FILE, strip_file
from studies.table1.page import page

ROOT = Path(__file__).parents[2]
DATA, IMAGES, PAGE = ROOT / "studies/table1/results.json", ROOT / "docs/img", ROOT / "docs/table1.md"


def take(run: Path, data: Path, images: Path) -> None:
    """Copy a finished run's figures and strips."""
    text = (run / RESULTS_FILE).read_text(encoding="utf-8")
    for nfe in json.loads(text)["config"]["nfes"]:
        atomic_write(images / f"table1_{nfe}.png", (run / strip_file(nfe)).read_bytes())
    atomic_write(data, text)


def write(data: Path, images: Path, target: Path) -> None:
    """The page and its chart from the figures alone."""
    results: dict[str, Any] = json.loads(data.read_text(encoding="utf-8"))
    atomic_write(images / "table1.png", error_chart(results["cells"]))
    atomic_write(target, page(results))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.table1", description=__doc__.split("\n\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished `adjointdpm table1`")
    options = parser.parse_args()
    if options.run is not None:
        if not (options.run / RESULTS_FILE).is_file():
            parser.error(f"{options.run} has no {RESULTS_FILE}: it holds no finished run of `adjointdpm table1`")
        take(options.run, DATA, IMAGES)
    write(DATA, IMAGES, PAGE)
    print(PAGE)


if __name__ == "__main__":
    main()
