"""What one process of a team does in tests/tasks/reward/test_reward_team.py; run by a launcher, or called alone.

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
from adjointdpm.tasks import RewardConfig, maximise_reward
from adjointdpm.tasks.reward.objective import Objective
from adjointdpm.tasks.reward.road import generator_for
from adjointdpm.tasks.reward.scores import Rewards
from adjointdpm.tasks.reward.subjects import subject_of
from adjointdpm.tasks.team import Team
from tests.support.tiny_pipeline import tiny_pipeline

CASES: dict[str, dict[str, Any]] = {
    "noise": {"optimise": "noise"},
    "embedding": {"optimise": "embedding", "noises": "fresh"},
    "weights": {"optimise": "weights", "rank": 2},
    "random": {"optimise": "weights", "rank": 2, "gradient": "random_truncation", "steps": 4},
}


def config_of(case: str, folder: Path, **changes: Any) -> RewardConfig:
    base = {
        "out": folder / case,
        "prompts": ("red apple", "blue cat", "star"),
        "seeds": (1,),
        "rewards": ("colourfulness", "-0.2*jpeg"),
        "held_out": "chroma",
        "steps": 2,
        "epochs": 5,
        "checkpoint_every": 2,
        "unseen_prompts": ("dog",),
        "unseen_seeds": (7,),
    }
    return RewardConfig(**base | CASES[case] | changes)


def first_gradient(case: str, folder: Path, team: Team) -> dict[str, torch.Tensor]:
    """Gradient of the first step in float32, summed over the processes; images one by one, as rounding asks."""
    generator, config = differentiable(tiny_pipeline()), config_of(case, folder, batch_size=1)
    with subject_of(generator_for(generator, config), config) as (subject, painter):
        rewards = Rewards.of(config, embedded=False)
        Objective(config, painter, subject, rewards, team).backward(1)
        team.sum_gradients(subject.parameters.values())
        return {name: p.grad.clone() for name, p in subject.parameters.items() if p.grad is not None}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    team = Team.join()
    found: dict[str, torch.Tensor] = {}
    verdicts = {}
    for case in CASES:
        found |= {f"gradient.{case}.{k}": v for k, v in first_gradient(case, folder, team).items()}
        out = folder / str(team.size)
        config = config_of(case, out)
        result = maximise_reward(config, differentiable(tiny_pipeline().to(torch.float64)), team=team)
        verdicts[case] = result.results
        state, _ = load_tensors(next(config.out.glob("checkpoint-*.safetensors")))
        found |= {f"after.{case}.{k}": v for k, v in state.items() if ".parameters." in k}
    save_tensors(folder / f"{team.size}-{team.rank}.safetensors", found)
    (folder / f"{team.size}-{team.rank}.json").write_text(json.dumps(verdicts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
