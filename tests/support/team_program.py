"""What one process of a team does in tests/tasks/test_team.py; run by a launcher, or called where there is one alone.

Each process writes what it saw into `FOLDER/<size>-<rank>.safetensors` and `.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from adjointdpm.errors import AdjointDPMError, NonFinite
from adjointdpm.pipelines import differentiable
from adjointdpm.runs import RunFolder, save_tensors
from adjointdpm.tasks import InvertConfig, invert
from adjointdpm.tasks.loop import LoopSettings, optimise
from adjointdpm.tasks.painter import Painter
from adjointdpm.tasks.settings import TaskConfig
from adjointdpm.tasks.team import Team
from adjointdpm.tasks.weights import Trained
from tests.support.tiny_pipeline import tiny_pipeline

PAIRS = (("cat", 1), ("red apple", 2), ("blue fish", 3))
STEPS = 5


class Objective:
    """Mean over PAIRS of the squared distance of an image from grey; this process computes its share."""

    def __init__(self, painter: Painter, dtype: torch.dtype, team: Team) -> None:
        self.painter, self.mine = painter, team.mine(range(len(PAIRS)))
        embeds, self.negative = painter.encode([prompt for prompt, _ in PAIRS])
        self.embeds, self.negative = embeds.to(dtype), self.negative.to(dtype)
        self.noise = painter.noise([seed for _, seed in PAIRS]).to(dtype)
        self.dies_at = 0

    def backward(self, step: int) -> float:
        if step == self.dies_at:
            raise RuntimeError("killed")
        total = 0.0
        for i in self.mine:
            out = self.painter.generate(self.embeds[[i]], self.negative[[i]], self.noise[[i]])
            loss = (out.image_unclamped - 0.5).square().mean() / len(PAIRS)
            self.painter.backward(loss)
            total += float(loss.detach())
        return total


def train(
    which: Any, dtype: torch.dtype, folder: Path, team: Team, steps: int, *, dies_at: int = 0
) -> dict[str, torch.Tensor]:
    """Weights after the steps, gradient of the first one and losses, by name."""
    pipe = tiny_pipeline().to(dtype)
    config = TaskConfig(out=folder, steps=2)
    found: dict[str, torch.Tensor] = {}
    with Trained(pipe, which, rank=2) as trained:
        objective = Objective(Painter(differentiable(pipe), config), dtype, team)
        objective.dies_at = dies_at

        def note(step: int, epochs: int, loss: float) -> None:
            if step == 1:
                found.update({f"gradient.{name}": p.grad.clone() for name, p in trained.parameters.items()})

        with RunFolder(folder, "team", config.identity(), team=team) as run:
            run.begin()
            settings = LoopSettings(steps, 1e-3, "linear", 0.01, 2)
            history = optimise(run, trained.parameters, objective.backward, settings, note, team=team)
            run.finish("finished")
        found.update({f"weight.{name}": p.detach().clone() for name, p in trained.parameters.items()})
    found["losses"] = torch.tensor(history.losses, dtype=torch.float64)
    return found


def exchange(team: Team, folder: Path) -> dict[str, Any]:
    """What each of the team's means of exchange gives."""
    items = [f"item {i}" for i in range(7)]
    together, alone, nobody = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    together.grad = torch.full((3,), 2.0**team.rank)
    if team.rank == team.size - 1:
        alone.grad = torch.arange(3.0)
    team.sum_gradients([together, alone, nobody])
    team.wait()

    def bad(step: int) -> float:
        x.grad = torch.zeros(1)
        if team.rank == team.size - 1:
            raise NonFinite("the loss is nan")
        return 0.0

    x = torch.nn.Parameter(torch.zeros(1))
    message = ""
    with RunFolder(folder / "bad", "team", {}, team=team) as run:
        run.begin()
        try:
            optimise(run, {"x": x}, bad, LoopSettings(2, 1e-3, "constant", 0.0, 1), team=team)
        except AdjointDPMError as error:
            message = str(error)
    return {
        "mine": team.mine(items),
        "gathered": team.gather([item.upper() for item in team.mine(items)]),
        "total": team.total(0.1 * (team.rank + 1)),
        "agree": [team.agree(False), team.agree(team.rank == 0), team.agree(True)],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in (together, alone, nobody)],
        "not finite": message,
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    team = Team.join()
    name = f"{team.size}-{team.rank}"
    facts = exchange(team, folder / f"exchange-{team.size}")
    tensors: dict[str, torch.Tensor] = {}
    for which, dtype, steps in (("cross-attention", torch.float32, 1), ("lora", torch.float64, STEPS)):
        made = train(which, dtype, folder / f"{which}-{team.size}", team, steps)
        tensors |= {f"{which}.{key}": value for key, value in made.items()}
    cut = folder / f"cut-{team.size}"
    try:
        train("lora", torch.float64, cut, team, STEPS, dies_at=4)
    except RuntimeError as error:
        facts["cut"] = str(error)
    tensors |= {f"resumed.{key}": value for key, value in train("lora", torch.float64, cut, team, STEPS).items()}
    config = InvertConfig(
        out=folder / f"invert-{team.size}",
        prompts=("cat", "red apple", "star"),
        seeds=(1, 2, 3),
        effect="sepia",
        epochs=2,
        steps=2,
        unseen_prompts=(),
    )
    result = invert(config, differentiable(tiny_pipeline()))
    tensors["invert"] = result.embedding.rows
    facts["invert"] = [path.name for path in (result.embedding_path, result.report_path) if path.is_file()]
    save_tensors(folder / f"{name}.safetensors", tensors)
    (folder / f"{name}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
