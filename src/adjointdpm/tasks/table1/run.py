"""`reproduce_table1(config, pipe)`: every cell solved, measured and kept; a killed run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adjointdpm.errors import InvalidInput
from adjointdpm.formats import fingerprint
from adjointdpm.numerics import full_precision
from adjointdpm.runs import GracefulStop, RunFolder, atomic_write, load_tensors, save_tensors
from adjointdpm.tasks.table1.cells import Cell
from adjointdpm.tasks.table1.config import Table1Config
from adjointdpm.tasks.table1.control import control_config, time_features, without_fast_time
from adjointdpm.tasks.table1.explicit_adams import need_torchdiffeq
from adjointdpm.tasks.table1.features import Features, efficientnet, inception, need_features
from adjointdpm.tasks.table1.measure import SHOWN, Reference, measure_cell, solve_reference
from adjointdpm.tasks.table1.outcome import REPORT_FILE, RESULTS_FILE, write_outcome
from adjointdpm.tasks.table1.problem import Problem
from adjointdpm.tasks.table1.real import need_real, real_images
from adjointdpm.tasks.table1.verdict import Row
from adjointdpm.zoo.measure import frechet_distance

__all__ = ["Table1Result", "reproduce_table1"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Table1Result:
    """`results` is what `results_path` (table1.json) holds; the report has the same with charts and pictures."""

    folder: Path
    results: dict[str, Any]
    results_path: Path
    report_path: Path


def reproduce_table1(config: Table1Config, pipe: Any, *, on_progress: Progress | None = None) -> Table1Result:
    """Measure every cell of `config` on the diffusers pipeline `pipe`; its weights are not changed.

    Goes on with an interrupted run in `config.out`: finished cells are read, not solved again.  `on_progress(done, of,
    what)` counts evaluations of the network on one sample.

    Raises `InvalidInput` before any solving if something does not fit or a package is missing (the message names the
    extra), `OutputError` if the folder is in use or cannot be written, `NonFinite` naming the cell, and
    `RunInterrupted` (exit status 130 or 143) on SIGINT or SIGTERM, at the end of the batch.
    """
    if not hasattr(pipe, "scheduler"):
        raise InvalidInput(f"expected a diffusers pipeline, got {type(pipe).__name__}")
    device = str(getattr(pipe, "device", "cpu"))
    if device.startswith("mps"):
        raise InvalidInput("Table 1 needs a float64 state, which the device mps does not have: use cpu or cuda")
    _need_packages(config)
    identity = {**fingerprint(pipe), "pipeline": type(pipe).__name__, "scheduler": type(pipe.scheduler).__name__}
    with (
        RunFolder(config.out, "table1", config.identity(), identity, device) as run,
        GracefulStop("batch") as stop,
        full_precision(),
    ):
        problem = Problem(pipe, config)
        run.begin()
        controlled = time_features(problem.network) is not None
        work = evaluations(config) + controlled * evaluations(control_config(config))
        count = _Count(run, stop, work, on_progress)
        bench = _Bench(config, problem, config.out, count)
        want = bench.reference()
        real, features, floor = bench.real()
        cells = [bench.cell(cell, want.x, real, features) for cell in config.cells]
        control = _control(config, problem, count) if controlled else None
        results = write_outcome(run, config, cells, want, bench.pictures(want.x), floor, control)
    return Table1Result(config.out, results, config.out / RESULTS_FILE, config.out / REPORT_FILE)


def _need_packages(config: Table1Config) -> None:
    """Everything that can be missing, before the first evaluation."""
    if "explicit_adams" in config.solvers:
        need_torchdiffeq()
    if config.images:
        need_features(standard=not config.scenes)
        need_real(config)


def evaluations(config: Table1Config) -> int:
    """Evaluations of the network on one sample in a whole run."""
    return 12 * config.reference_steps * config.noises + sum(cell.nfe for cell in config.cells) * config.samples


def _control(config: Table1Config, problem: Problem, count: _Count) -> tuple[Table1Config, Reference, list[Row]]:
    """The control's configuration, converged solutions and cells."""
    config = control_config(config)
    bench = _Bench(config, problem, config.out / "control", count)
    with without_fast_time(problem.network):
        want = bench.reference()
        return config, want, [bench.cell(cell, want.x, None, None) for cell in config.cells]


class _Count:
    """Evaluations done, for the progress, and the place where a signal ends the run."""

    def __init__(self, run: RunFolder, stop: GracefulStop, total: int, on_progress: Progress | None) -> None:
        self.run, self.stop, self.total, self.on_progress = run, stop, total, on_progress
        self.done, self.doing = 0, ""

    def tick(self, evaluations: int) -> None:
        self.done += evaluations
        if self.on_progress is not None:
            self.on_progress(self.done, self.total, self.doing)
        if self.stop.requested:
            self.run.finish("interrupted")
            raise self.stop.interruption(
                f"interrupted in {self.doing}; what was finished is kept in {self.run.path}: the same command, or the "
                "same call, goes on there"
            )


class _Bench:
    """The parts of a run that are kept in `folder`: each method reads what is there or makes it."""

    def __init__(self, config: Table1Config, problem: Problem, folder: Path, count: _Count) -> None:
        self.config, self.problem, self.folder, self.count = config, problem, folder, count

    def reference(self) -> Reference:
        self.count.doing = "reference"
        return solve_reference(self.problem, self.config, self.folder / "reference", self.count.tick)

    def real(self) -> tuple[np.ndarray | None, Features | None, float | None]:
        """Features of the real images, what makes them, and the distance of two sets of real images."""
        if not self.config.images:
            return None, None, None
        features = efficientnet(self.problem.device) if self.config.scenes else inception()
        path = self.folder / "real.safetensors"
        if not path.exists():
            height, width = self.problem.images(self.problem.noise(range(1))).shape[-2:]
            images = real_images(self.config, (height, width))
            save_tensors(path, {name: torch.from_numpy(features(part)) for name, part in images.items()})
        found = {name: tensor.numpy() for name, tensor in load_tensors(path)[0].items()}
        floor = frechet_distance(found["other"], found["real"]) if "other" in found else None
        return found["real"], features, floor

    def cell(self, cell: Cell, want: Tensor, real: np.ndarray | None, features: Features | None) -> dict[str, Any]:
        """The figures of a cell: its JSON is written last, so where it is there the cell is finished."""
        path, self.count.doing = self.folder / "cells" / f"{cell.key}.json", cell.key
        if path.exists():
            self.count.tick(cell.nfe * self.config.samples)
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        figures, images = measure_cell(cell, self.problem, self.config, want, real, features, self.count.tick)
        save_tensors(path.with_suffix(".safetensors"), {"images": images})
        atomic_write(path, json.dumps(figures, indent=1) + "\n")
        row = {"cell": f"{self.folder.name}/{cell.key}"} if self.folder != self.config.out else {"cell": cell.key}
        self.count.run.log.write({**row, "error": figures["error"]["median"], "seconds": figures["seconds"]})
        return figures

    def pictures(self, want: Tensor) -> dict[str, Tensor]:
        """The first images of every cell by its key, and those of the reference."""
        folder = self.folder / "cells"
        kept = {c.key: load_tensors(folder / f"{c.key}.safetensors")[0]["images"][:SHOWN] for c in self.config.cells}
        shown = want[:SHOWN].to(self.problem.device)
        return {"reference": self.problem.images(shown), **kept}
