"""What the training stages share: the clock, resumable checkpoints, log lines, EMA.

A run is given minutes, not steps: its learning rate is a function of the share of time that has
passed, so that it ends decayed on a slow or busy machine as on a fast one.  Checkpoints replace
one another atomically and hold model, optimizer, random state, step and time spent; a stage that
is started again goes on from there.  Touching the file STOP in the work folder ends a stage early,
after a short decay.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.zoo.team import Team

STOP_DECAY = 240.0  # seconds that a run still decays after STOP appeared


class Run:
    """One stage in its work folder."""

    def __init__(
        self, folder: Path, stage: str, minutes: float, seed: int = 0, device: str = "cpu", team: Team | None = None
    ):
        self.folder, self.stage, self.seconds, self.seed = folder, stage, 60 * minutes, seed
        self.team = team or Team()
        self.device = torch.device(device)
        self.step = 0
        self.spent = 0.0  # seconds of training before this process
        self.started = time.time()
        self.saved = time.time()
        self.save_every = 120.0
        folder.mkdir(parents=True, exist_ok=True)
        self.elapsed = 0.0  # rank 0's clock, agreed on once a step
        self._stop_at: float | None = None

    @property
    def leads(self) -> bool:
        return self.team.rank == 0

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed / self.seconds)

    def going(self) -> bool:
        """False once the time is up.  STOP shortens the time left to a last decay."""
        return self.elapsed < self.seconds

    def update(self, optimizer: torch.optim.Optimizer, loss: float, per_step: int, clip: float = 1.0) -> float:
        """One optimizer step on the team's summed gradients; returns the mean loss."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        clock = self.spent + time.time() - self.started if self.leads else 0.0
        stop = float(self.leads and (self.folder / "STOP").exists())
        loss, self.elapsed, stop = self.team.sum_gradients(parameters, per_step, loss, clock, stop)
        if stop and self._stop_at is None:
            self._stop_at = self.elapsed
            self.seconds = min(self.seconds, self.elapsed + STOP_DECAY)
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss / per_step

    def factor(self, warmup: int, decay: float) -> float:
        """Learning-rate factor: linear warm-up in steps, then cosine over the last `decay` share."""
        rise = min(1.0, (self.step + 1) / warmup)
        progress = self.progress
        if self._stop_at is not None:
            progress = max(progress, 1 - decay + decay * (self.elapsed - self._stop_at) / STOP_DECAY)
        tail = max(0.0, (progress - (1 - decay)) / decay)
        return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, tail))))

    def set_rate(self, optimizer: torch.optim.Optimizer, peak: float, warmup: int, decay: float = 1.0) -> None:
        for group in optimizer.param_groups:
            group["lr"] = peak * group.get("scale", 1.0) * self.factor(warmup, decay)

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 where the processor has it: twice as fast on AVX-512 BF16 and on GPUs."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def log(self, **values: Any) -> None:
        if not self.leads:
            return
        line = {"stage": self.stage, "step": self.step, "seconds": round(self.elapsed, 1)}
        line |= {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    # --- checkpoints -----------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.stage}.checkpoint.pt"

    def tick(self, **parts: Any) -> None:
        """End of a step: count it, and save every two minutes."""
        self.step += 1
        if self.leads and time.time() - self.saved > self.save_every:
            self.save(**parts)

    def save(self, **parts: Any) -> None:
        state: dict[str, Any] = {"step": self.step, "spent": self.elapsed}
        for name, part in parts.items():
            state[name] = part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self.checkpoint)
        self.saved = time.time()

    def resume(self, **parts: Any) -> bool:
        """Load the stage's checkpoint into the given parts, if there is one."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, weights_only=True)
        for name, part in parts.items():
            if isinstance(part, torch.Generator):
                if self.leads:
                    part.set_state(state[name])
                else:  # another stream than before the break, but never rank 0's
                    part.manual_seed(hash((self.seed, self.team.rank, state["step"])))
            else:
                part.load_state_dict(state[name])
        self.step, self.spent, self.started = state["step"], state["spent"], time.time()
        return True

    def save_weights(self, name: str, weights: dict[str, Tensor]) -> Path:
        """Finished weights of the stage, as safetensors."""
        from safetensors.torch import save_file

        path = self.folder / f"{name}.safetensors"
        partial = path.with_suffix(".partial")
        save_file({k: v.detach().float().cpu().contiguous() for k, v in weights.items()}, partial)
        partial.rename(path)
        return path


class Average:
    """Exponential moving average of weights, with warm-up so that early steps do not linger."""

    def __init__(self, modules: dict[str, nn.Module], decay: float):
        self.modules, self.decay, self.updates = modules, decay, 0
        self.weights = {k: v.detach().clone() for k, v in self._live().items()}

    def _live(self) -> dict[str, Tensor]:
        return {
            f"{m}.{k}": v
            for m, module in self.modules.items()
            for k, v in module.state_dict().items()
            if v.is_floating_point()
        }

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = self._live()
        torch._foreach_lerp_(list(self.weights.values()), [live[k] for k in self.weights], 1 - decay)

    def of(self, name: str) -> dict[str, Tensor]:
        """The averaged state of one module."""
        prefix = name + "."
        return {k[len(prefix) :]: v for k, v in self.weights.items() if k.startswith(prefix)}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for k, v in self.weights.items():
            v.copy_(state["weights"][k])
