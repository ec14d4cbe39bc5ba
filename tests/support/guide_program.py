"""What one process of a team does in tests/tasks/guide/test_guide_team.py; run by a launcher, or called alone.

Each process writes what it ended with into `FOLDER/<size>-<rank>.safetensors`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from adjointdpm.pipelines import differentiable
from adjointdpm.runs import load_tensors, save_tensors
from adjointdpm.tasks import GuideConfig, guide_images
from adjointdpm.tasks.guide.objective import Objective
from adjointdpm.tasks.guide.saliency import Border
from adjointdpm.tasks.guide.terms import build_terms
from adjointdpm.tasks.painter import Painter
from adjointdpm.tasks.team import Team
from tests.support.tiny_pipeline import tiny_pipeline

CASES: dict[str, dict[str, Any]] = {
    "noise": {"optimise": "noise", "box": (0, 0, 8, 8), "lr": 0.5, "plateau": 1},  # so that images go back
    "both": {"optimise": "both", "symmetry": "left-right", "size": 0.3},
}


def config_of(case: str, folder: Path) -> GuideConfig:
    base = {"out": folder / case, "prompts": ("red apple",), "seeds": (1, 2, 3), "steps": 2, "updates": 5}
    return GuideConfig(**base | {"checkpoint_every": 5} | CASES[case])


def first_gradient(case: str, folder: Path, team: Team) -> dict[str, torch.Tensor]:
    """Gradient of the first step, summed over the processes, float32.

    One image at a time, because a float32 convolution rounds otherwise in batches of other sizes.
    """
    config = config_of(case, folder).model_copy(update={"batch_size": 1})
    painter = Painter(differentiable(tiny_pipeline()), config, wrt=("x_T", "cond"))
    terms = build_terms(config, (16, 16), lambda: torch.nn.Identity())
    objective = Objective(painter, config, Border(), terms, painter.noise(config.seeds), team)
    objective.backward(1)
    team.sum_gradients(objective.parameters.values())
    return {name: p.grad.clone() for name, p in objective.parameters.items() if p.grad is not None}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    team = Team.join()
    found: dict[str, torch.Tensor] = {}
    readings = {}
    for case in CASES:
        found |= {f"gradient.{case}.{k}": v for k, v in first_gradient(case, folder, team).items()}
        config = config_of(case, folder / str(team.size))
        result = guide_images(config, differentiable(tiny_pipeline().to(torch.float64)))
        readings[case] = result.readings
        state, _ = load_tensors(next(config.out.glob("checkpoint-*.safetensors")))
        found |= {f"after.{case}.{k}": v for k, v in state.items() if ".parameters." in k}
        found[f"images.{case}"] = result.images
    save_tensors(folder / f"{team.size}-{team.rank}.safetensors", found)
    (folder / f"{team.size}-{team.rank}.json").write_text(json.dumps(readings))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
