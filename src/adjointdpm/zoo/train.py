"""Reproduces the embedded model: ``python -m adjointdpm.zoo.train STAGE|all``.

Stages, in order: data (npm packages to sprites) → autoencoder → diffusion → decoder (the
autoencoder's decoder, further, on the frozen encoder) → classifiers → export (the diffusers folder
and the classifiers' weights) → evaluation.  Each goes on from its checkpoint when started again, and
is skipped when its weights are there.  `--minutes` scales the stages' own shares of time; `--device cuda`
trains on a GPU in one process, on a CPU every core gets one (see `team.py`).
Touch the file STOP in the work folder to end the running stage early, decayed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

from adjointdpm.zoo.sprites import build_sprites

# minutes on two idle cores
STAGES = {
    "data": 0.0,
    "autoencoder": 40.0,
    "diffusion": 240.0,
    "decoder": 15.0,
    "classifiers": 19.0,
    "export": 0.0,
    "evaluation": 0.0,
}
RESULTS = {
    "autoencoder": ["autoencoder"],
    "diffusion": ["unet", "text_encoder"],
    "decoder": ["decoder"],
    "classifiers": ["classifier", "judge"],
}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _train(stage: str, folder: Path, minutes: float, device: str) -> None:
    from adjointdpm.zoo.team import Team, run_team

    world = cores() if device == "cpu" else 1
    if stage != "classifiers":
        run_team(train_one, world, stage, folder, minutes, device)
        return
    # two independent networks: side by side where there are cores for both
    context = multiprocessing.get_context("spawn")
    members = [
        context.Process(target=train_one, args=(Team(), name, folder, minutes, device)) for name in RESULTS[stage]
    ]
    for member in members:
        member.start()
    for member in members:
        member.join()
        if member.exitcode:
            raise RuntimeError(f"training the {stage} failed (exit code {member.exitcode})")


def train_one(team: object, stage: str, folder: Path, minutes: float, device: str) -> None:
    """One process's part in one stage."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)
    from adjointdpm.zoo.compose import Sprites
    from adjointdpm.zoo.train_autoencoder import train_autoencoder, train_decoder
    from adjointdpm.zoo.train_classifiers import train_classifier
    from adjointdpm.zoo.train_diffusion import train_diffusion
    from adjointdpm.zoo.training import Run

    run = Run(folder, stage, minutes, device=device, team=team)  # type: ignore[arg-type]
    sprites = Sprites.load(folder / "sprites.npz")
    work: dict[str, Callable[[], None]] = {
        "autoencoder": lambda: train_autoencoder(run, sprites),
        "diffusion": lambda: train_diffusion(run, sprites),
        "decoder": lambda: train_decoder(run, sprites),
        "classifier": lambda: train_classifier(run, sprites, "classifier"),
        "judge": lambda: train_classifier(run, sprites, "judge"),
    }
    work[stage]()


def run_stage(stage: str, folder: Path, packages: Path, weights: Path, minutes: float, device: str) -> None:
    """Run one stage unless its result is there already."""
    if stage == "data":
        if not (folder / "sprites.npz").exists():
            build_sprites(packages, folder / "sprites.npz")
    elif stage == "export":
        from adjointdpm.zoo.export import export

        export(folder, weights)
    elif stage == "evaluation":
        from adjointdpm.zoo.evaluate import main as evaluate

        evaluate(["--work", str(folder), "--weights", str(weights)])
    elif all((folder / f"{name}.safetensors").exists() for name in RESULTS[stage]):
        print(f"{stage}: done before, weights in {folder}")
    else:
        _train(stage, folder, minutes, device)


def main(arguments: list[str] | None = None) -> None:
    from adjointdpm.zoo.load import WEIGHTS

    parser = argparse.ArgumentParser(prog="python -m adjointdpm.zoo.train", description=__doc__.split("\n\n")[0])
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--minutes", type=float, help="training time of all stages together (default: each its own)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--work", type=Path, default=Path(".cache/zoo"), help="checkpoints, log, sprites")
    parser.add_argument("--packages", type=Path, default=Path(".cache/npm"), help="npm archives, fetched where missing")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where `export` writes")
    chosen = parser.parse_args(arguments)
    stages = list(STAGES) if chosen.stage == "all" else [chosen.stage]
    given = sum(STAGES[stage] for stage in stages) or 1.0
    scale = (chosen.minutes or given) / given
    for stage in stages:
        run_stage(stage, chosen.work, chosen.packages, chosen.weights, scale * STAGES[stage], chosen.device)


if __name__ == "__main__":
    main()
