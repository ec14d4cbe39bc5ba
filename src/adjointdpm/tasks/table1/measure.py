"""One cell on all noises, measured: endpoint errors, evaluations counted, distances of the images to real ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adjointdpm.errors import AdjointDPMError
from adjointdpm.runs import load_tensors, save_tensors
from adjointdpm.tasks.table1.cells import Cell
from adjointdpm.tasks.table1.config import Table1Config
from adjointdpm.tasks.table1.distances import frechet, kid
from adjointdpm.tasks.table1.features import Features
from adjointdpm.tasks.table1.parallel import batches, in_order
from adjointdpm.tasks.table1.problem import Problem
from adjointdpm.tasks.table1.solve import reference, solve, step_ratio

__all__ = ["SHOWN", "Reference", "measure_cell", "relative_errors", "solve_reference", "summary"]

SHOWN = 6  # images kept of each cell, for the sample strips
Tick = Callable[[int], None]  # evaluations of one sample that were done; may raise to interrupt


@dataclass(frozen=True)
class Reference:
    """The converged solutions (N, C, h, w) float64, and how far those of half as many steps are from them (N,)."""

    x: Tensor
    change: Tensor


def relative_errors(x: Tensor, want: Tensor) -> Tensor:
    """(B,) of ||x - want|| / ||want||, sample by sample."""
    distance, size = (torch.linalg.vector_norm(v.flatten(1), dim=1) for v in (x - want, want))
    errors: Tensor = distance / size
    return errors


def summary(values: Tensor) -> dict[str, float]:
    """Median, quartiles and largest value, as they stand in the JSON."""
    low, median, high = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype)).tolist()
    return {"median": median, "low": low, "high": high, "max": float(values.max())}


def solve_reference(problem: Problem, config: Table1Config, folder: Path, tick: Tick) -> Reference:
    """Solve with `reference_steps` Runge-Kutta steps and with twice as many; each batch is kept in `folder`."""
    steps = config.reference_steps

    def solved(part: range) -> dict[str, Tensor]:
        path = folder / f"{part.start:05d}.safetensors"
        if not path.exists():
            noise, cond = problem.noise(part), problem.cond(part)
            found = {
                k: reference(problem.denoiser, noise, cond, n) for k, n in (("coarse", steps), ("fine", 2 * steps))
            }
            save_tensors(path, found)
        return load_tensors(path)[0]

    parts = []
    for part, found in in_order(solved, batches(config.noises, config.batch), problem.threads):
        parts.append(found)
        tick(12 * steps * len(part))
    fine, coarse = (torch.cat([part[name] for part in parts]) for name in ("fine", "coarse"))
    return Reference(fine, relative_errors(coarse, fine))


def measure_cell(
    cell: Cell,
    problem: Problem,
    config: Table1Config,
    want: Tensor,
    real: np.ndarray | None,
    features: Features | None,
    tick: Tick,
) -> tuple[dict[str, Any], Tensor]:
    """The cell's figures, as they stand in its JSON, and its first images (SHOWN, 3, H, W), 8 bits.

    Args:
        cell, problem, config: what to solve.
        want: (noises, C, h, w) converged solutions of the first noises.
        real, features: of the real images (N, D), and what makes them; None leaves the distances out.
        tick: called after each batch.
    """

    def solved(part: range) -> tuple[Tensor, Tensor | None]:
        x, nfe = solve(cell, problem.denoiser, problem.noise(part), problem.cond(part))
        if nfe != cell.nfe:
            raise AdjointDPMError(f"{cell.key} took {nfe} evaluations of the network: its column is not comparable")
        pictures = problem.images(x) if real is not None or part.start < SHOWN else None
        known = want[part.start : part.stop]
        return relative_errors(x[: len(known)].cpu(), known), pictures

    began, errors, images = time.perf_counter(), [], []
    for part, (error, pictures) in in_order(solved, batches(config.samples, config.batch), problem.threads):
        errors.append(error)
        if pictures is not None:
            images.append(pictures)
        tick(cell.nfe * len(part))
    found, made = torch.cat(errors), torch.cat(images)
    figures: dict[str, Any] = {
        **asdict(cell),
        "steps": cell.steps,
        "step_ratio": step_ratio(cell, problem.denoiser.schedule),
        "error": summary(found),
        "errors": [float(f"{value:.4g}") for value in found.tolist()],
        "frechet": None,
        "kid": None,
    }
    if real is not None and features is not None:
        own = features(made[: config.images])
        figures["frechet"] = asdict(frechet(own, real, config.resamples))
        figures["kid"] = asdict(kid(own, real, config.resamples))
    return {**figures, "seconds": round(time.perf_counter() - began, 1)}, made[:SHOWN]
