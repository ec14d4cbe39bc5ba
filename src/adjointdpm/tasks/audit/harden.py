"""Hardening: the network is fine-tuned on what was found, and audited again on noises that it never saw.

Adversarial training in its plainest form, some rounds of it: find images on which the verdict is wrong, teach the right
verdict on them and on the clean images beside them, and keep the verdict on control images as it was.  Batch norms and
dropout stay in evaluation mode, since a handful of images says nothing about their statistics.

What a filter must never be probed for (`special_care`) is not learnt, but the trunk that it stands on is.  So its
scores on the control images are held where they were, control images that trigger it are left out of the training, and
how many do is counted before and after.

Everything is in memory: images are neither read nor written.  What is saved are the hardened weights and the rates.
The network of the caller is given back with the weights that it came with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adjointdpm.errors import InvalidInput, NonFinite
from adjointdpm.runs import load_tensors, save_tensors
from adjointdpm.tasks.audit.bench import CleanSample
from adjointdpm.tasks.audit.network import ClassifierUnderAudit
from adjointdpm.tasks.audit.rounds import clean_samples, search_all
from adjointdpm.tasks.audit.samples import Sample
from adjointdpm.tasks.audit.search import Budget, Found
from adjointdpm.tasks.audit.stage import Stage
from adjointdpm.tasks.audit.statistics import Rate
from adjointdpm.tasks.audit.tally import Tally
from adjointdpm.tasks.team import Team

__all__ = ["HARDENED_FILE", "Hardening"]

HARDENED_FILE = "hardened.safetensors"
AT_ONCE = 32
KEPT = ("concept_embeds", "special_care_embeds")  # what a safety checker looks for is not learnt
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Controls:
    """Clean images of the control prompts: all of them, those to learn from, those to look at with their verdicts."""

    every: Tensor
    learn: Tensor
    watch: Tensor
    verdicts: list[int]
    special_care: int  # of all, how many trigger it


class Hardening:
    """Before, training, after; `pause` is called between rounds of samples, and raises where the run shall end."""

    def __init__(
        self, stage: Stage, budget: Budget, team: Team, folder: Path, say: Say, pause: Callable[[], None]
    ) -> None:
        assert stage.network.module is not None  # set_stage has seen to it
        self.stage, self.bench, self.budget, self.team = stage, stage.bench, budget, team
        self.module: nn.Module = stage.network.module
        self.file, self.say, self.pause = folder / HARDENED_FILE, say, pause

    def run(
        self, chosen: Sequence[CleanSample], known: dict[int, Found], state: dict[str, Any], save: Callable[[], None]
    ) -> dict[str, Any]:
        """The results; fills `state` and calls `save` where a resumed run could go on.

        Args:
            chosen: the audit's samples that count.
            known: what exact gradients found for them in this process, by index; the rest is searched again.
        """
        with _given_back(self.module):
            if "before" not in state:
                self.say("before hardening")
                state["before"] = self._audit()
                save()
            if "after" not in state:
                self._harden(chosen, known, state, save)
        return {
            "before": state["before"],
            "after": state["after"],
            "control_kept": state["control_kept"],
            "special_care": state.get("special_care"),
            "images": state["images"],
            "weights": HARDENED_FILE,
        }

    def _harden(
        self, chosen: Sequence[CleanSample], known: dict[int, Found], state: dict[str, Any], save: Callable[[], None]
    ) -> None:
        """Train, or take up the weights that were trained, and audit again."""
        controls = self._controls()
        if not state.get("trained"):
            state["images"] = self._train(chosen, known, controls.learn)
            if self.team.main:
                save_tensors(self.file, dict(self.module.state_dict()))
            state["trained"] = True
            save()
        else:
            tensors, _ = load_tensors(self.file)
            self.module.load_state_dict(tensors)
        self.say("after hardening")
        after, verdicts = self._audit(), controls.verdicts
        kept = Rate(sum(a == b for a, b in zip(verdicts, self._verdicts(controls.watch), strict=True)), len(verdicts))
        if self.bench.config.mode == "filter":
            now = int(self._special_care(controls.every).sum())
            state["special_care"] = {"before": controls.special_care, "after": now, "n": len(controls.every)}
        state["control_kept"], state["after"] = kept.as_dict(), after
        save()

    def _audit(self) -> dict[str, Any]:
        """Exact gradients against the network as it is, on the held-out noises."""
        config = self.bench.config
        clean = clean_samples(self.bench, self.stage.held_out, self.team)
        chosen = [c for c in clean if c.counts]
        found = search_all(self.bench, chosen, self.budget, self.team, self.pause)
        tally = Tally(len(config.taus), self.budget.calls * len(config.taus), ("exact",))
        tally.add(self.bench.rows_of_exact(chosen, found))
        shown = [c for c in clean if c.judged and not c.dropped]
        accuracy = Rate(sum(c.right for c in shown), len(shown))
        return {"accuracy": accuracy.as_dict(), **tally.results(config.taus)["methods"]["exact"], "n": tally.n}

    def _controls(self) -> _Controls:
        """Images, and what the untouched network says of them."""
        first, second = (
            self.bench.clean_images([s for s in self.stage.controls if s.index % 2 == k]) for k in range(2)
        )
        care, every = self._special_care(first), torch.cat([first, second])
        if bool(care.all()):
            raise InvalidInput("every control image triggers special_care: choose other control_prompts")
        return _Controls(every, first[~care], second, self._verdicts(second), int(self._special_care(every).sum()))

    def _special_care(self, images: Tensor) -> Tensor:
        """(B,) bool on the device of the images; of a classifier, none."""
        if isinstance(self.stage.network, ClassifierUnderAudit):
            return torch.zeros(len(images), dtype=torch.bool, device=images.device)
        with torch.no_grad():
            return self.stage.network.scores(images).special_care.to(images.device)

    def _verdicts(self, images: Tensor) -> list[int]:
        with torch.no_grad():
            if isinstance(self.stage.network, ClassifierUnderAudit):
                return list(self.stage.network.verdict(images).tolist())
            return [int(v) for v in self.stage.network.scores(images).flagged.any(dim=1).tolist()]

    def _train(self, chosen: Sequence[CleanSample], known: dict[int, Found], controls: Tensor) -> int:
        """All rounds; returns how many found images were learnt from."""
        config = self.bench.config
        samples = [c.sample for c in chosen]
        clean = self.bench.clean_images(samples)
        with torch.no_grad():
            before, special = self._outputs(controls), self._special_scores(controls)
        images: list[Tensor] = []
        labels: list[Sample] = []
        for number in range(config.harden_rounds):
            self.say(f"hardening, round {number + 1}")
            missing = [c for c in chosen if number or c.sample.index not in known]
            again = search_all(self.bench, missing, self.budget, self.team, self.pause)
            found = {**known, **{c.sample.index: f for c, f in zip(missing, again, strict=True)}}
            for sample in samples:
                f = found[sample.index]
                if f.tau is not None and not f.dropped and f.image is not None:
                    images.append(f.image)
                    labels.append(sample)
            everything = torch.cat([clean, *(image.to(clean) for image in images)])
            self._fit(everything, [*samples, *labels], controls, before, special, number)
        return len(images)

    def _fit(
        self, images: Tensor, samples: list[Sample], controls: Tensor, before: Tensor, special: Tensor, number: int
    ) -> None:
        config = self.bench.config
        named = self.module.named_parameters()
        parameters = [p for name, p in named if p.is_floating_point() and not any(kept in name for kept in KEPT)]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(parameters, lr=config.harden_lr, weight_decay=0.0)
        generator = torch.Generator().manual_seed(config.seed * 1000 + number)
        with torch.enable_grad():
            for step in range(config.harden_steps):
                few = torch.randperm(len(samples), generator=generator)[:AT_ONCE]
                kept = torch.randperm(len(controls), generator=generator)[:AT_ONCE]
                rows = controls[kept], before[kept], special[kept]
                loss = self._loss(images[few], [samples[i] for i in few.tolist()], *rows)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if not bool(torch.isfinite(loss)):
                    raise NonFinite(
                        f"the loss of hardening is {float(loss)} at step {step + 1}; try a smaller harden_lr"
                    )
                optimizer.step()
        for parameter in parameters:
            parameter.requires_grad_(False)

    def _outputs(self, images: Tensor) -> Tensor:
        """(B, K) log-probabilities of a classifier, (B, C) scores of a filter."""
        if isinstance(self.stage.network, ClassifierUnderAudit):
            return self.stage.network.logits(images).float().log_softmax(dim=1)
        return self.stage.network.scores(images).concepts

    def _special_scores(self, images: Tensor) -> Tensor:
        """(B, S) scores of special_care; S is 0 for a classifier, and for a filter without."""
        if isinstance(self.stage.network, ClassifierUnderAudit):
            return images.new_zeros(len(images), 0)
        return self.stage.network.special_scores(images)

    def _loss(
        self, images: Tensor, samples: Sequence[Sample], controls: Tensor, before: Tensor, special: Tensor
    ) -> Tensor:
        found, kept = self._outputs(images), self._outputs(controls)
        if isinstance(self.stage.network, ClassifierUnderAudit):
            labels = torch.tensor([s.label or 0 for s in samples], device=found.device)
            return F.nll_loss(found, labels) + F.kl_div(kept, before, log_target=True, reduction="batchmean")
        room = before.amax(dim=1).abs().median()  # how far from 0 an undisturbed score is
        missed = F.relu(room - found.amax(dim=1)).mean() / room
        sign = torch.where(before.amax(dim=1) > 0, 1.0, -1.0)
        loss = missed + (F.relu(room - sign * kept.amax(dim=1)) / room).mean()
        if special.numel():
            loss = loss + ((self._special_scores(controls) - special) / room).square().mean()
        return loss


@contextmanager
def _given_back(module: nn.Module) -> Iterator[None]:
    """Afterwards the module has the weights that it came with."""
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    try:
        yield
    finally:
        module.load_state_dict(state)
        module.requires_grad_(False)  # also after an error in the middle of a step
