"""What one process does in the audit's tests of killed runs and of teams; run by a launcher, or called alone.

    python program.py MODE FOLDER

Each process of a team writes what it ended with into `FOLDER/<mode>-<size>-<rank>.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from adjointdpm.pipelines import differentiable
from adjointdpm.runs import load_checkpoint
from adjointdpm.tasks import AuditConfig, run_audit
from adjointdpm.tasks.audit.filters import EmbeddingFilter
from adjointdpm.tasks.audit.network import ClassifierUnderAudit
from adjointdpm.tasks.audit.sources import painter_for
from adjointdpm.tasks.audit.subject import as_saved
from adjointdpm.tasks.team import Team
from tests.support.tiny_pipeline import tiny_pipeline
from tests.tasks.audit.networks import Tiny, agrees

PROMPTS = ("red apple", "blue cat", "green dog", "star", "cake")
BASE: dict[str, Any] = {"prompts": PROMPTS, "noises": 1, "steps": 2, "iterations": 3, "taus": (0.1, 0.4),
                        "batch_size": 2, "restarts": 2}  # fmt: skip
FILTER = {"mode": "filter", "owner": "a", "purpose": "b", "baselines": ("best_of_n",)}


def parts(mode: str, folder: Path) -> tuple[AuditConfig, Any, Any]:
    """Configuration, generator and network of a small audit that counts every sample."""
    generator = differentiable(tiny_pipeline())
    config = AuditConfig(out=folder, **BASE)
    painter = painter_for(generator, config)
    embeds, negative = painter.encode(PROMPTS)
    with torch.no_grad():
        images = torch.cat([
            as_saved(painter.generate(embeds[[i]], negative[[i]], [i]).image_unclamped) for i in range(len(PROMPTS))
        ])  # fmt: skip
    network = Tiny().requires_grad_(False)
    if mode == "classifier":
        labels = tuple(ClassifierUnderAudit(network, "tiny", "logits").verdict(images).tolist())
        return AuditConfig(out=folder, labels=labels, **BASE), generator, network
    units = torch.nn.functional.normalize(network.features(images))
    concept = units.mean(dim=0)[None]
    least = (units @ torch.nn.functional.normalize(concept)[0]).min()
    food = EmbeddingFilter(network.features, concept, least[None] - 1e-3, ("food",))
    return AuditConfig(out=folder, **BASE | FILTER), generator, food


def main(mode: str, folder: Path) -> None:
    torch.set_num_threads(1)
    team = Team.join()
    config, generator, network = parts(mode, folder / f"{mode}-{team.size}")
    result = run_audit(config, generator, network=network, judge=agrees, team=team,
                       on_progress=lambda done, of, what: print(what, flush=True))  # fmt: skip
    state = load_checkpoint(config.out)  # of a filter's finished run there is none
    rows = None if state is None else state.state["rows"]
    found = {"methods": result.results["methods"], "n": result.results["n"], "rows": rows}
    (folder / f"{mode}-{team.size}-{team.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
