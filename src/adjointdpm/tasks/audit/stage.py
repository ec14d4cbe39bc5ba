"""Everything an audit needs, made and tried before any work: networks, judge, samples, sources, budget.

Whatever is wrong with the inputs is found here, on a few clean images, and nothing has been written by then.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InputWarning, InvalidInput, NotDifferentiable
from adjointdpm.losses.load import load_function
from adjointdpm.losses.users import trial
from adjointdpm.tasks.audit.adapters import module_in
from adjointdpm.tasks.audit.bench import Bench
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.filters import FilterUnderAudit
from adjointdpm.tasks.audit.food import food_filter
from adjointdpm.tasks.audit.judge import Judge, check_named, embedded_judge, no_judge, wrapped_judge
from adjointdpm.tasks.audit.losses import enough_classes
from adjointdpm.tasks.audit.network import ClassifierUnderAudit, lent
from adjointdpm.tasks.audit.parties import Parties
from adjointdpm.tasks.audit.samples import CONTROL_PROMPTS, Sample, make_samples, prompts_of
from adjointdpm.tasks.audit.sanity import Check, checks_of_network
from adjointdpm.tasks.audit.search import Budget
from adjointdpm.tasks.audit.sources import Source, make_source, painter_for, require_finite
from adjointdpm.tasks.audit.subject import ClassifierSubject, FilterSubject, Subject
from adjointdpm.tasks.networks import is_embedded
from adjointdpm.tasks.painter import Painter

__all__ = ["Stage", "set_stage"]

PROBED = 4  # clean images that networks are tried on


@dataclass
class Stage:
    """What `set_stage` made.

    Attributes:
        network: under audit.
        held_out, controls: for hardening: noises that the audit does not use, and images whose verdict shall stay.
        judged: whether there is a judge.
        left_out: baselines that this generator cannot have, or the budget not pay for, with the reason.
        names: of the classes, or empty.
    """

    bench: Bench
    network: ClassifierUnderAudit | FilterUnderAudit
    samples: list[Sample]
    held_out: list[Sample]
    controls: list[Sample]
    judged: bool
    embedded: bool
    left_out: dict[str, str]
    names: tuple[str, ...]
    probes: Tensor

    def budget(self, samples: Sequence[Sample]) -> Budget:
        """What a step of each method costs, measured on the first batch: its size may matter.

        Baselines that turn out not to run, or whose first step costs more than a start has, are `Budget.left_out`.
        """
        bench, config = self.bench, self.bench.config
        scene = bench.scene(samples)
        forward = bench.exact.look(scene, scene.noise).calls
        look = require_finite(bench.sources["exact"].climb(scene, scene.noise), scene.samples)
        steps, left_out, share = {"exact": look.calls}, {}, config.iterations * look.calls + forward
        for name, source in bench.sources.items():
            if name == "exact":
                continue
            try:
                steps[name] = source.climb(scene, scene.noise).calls
            except (InvalidInput, NotDifferentiable) as error:
                left_out[name] = f"the baseline {name!r} does not run with this generator: {error}"
                continue
            if steps[name] + forward > share:
                left_out[name] = (
                    f"the baseline {name!r} needs {steps[name]} network calls for a step and {forward} for the look "
                    f"after it, more than the {share} that a start has: raise iterations"
                )
        return Budget(config.restarts * share, forward, steps, left_out)

    def leave_out(self, baselines: Mapping[str, str]) -> None:
        """Do without these, for the reasons given."""
        for name, why in baselines.items():
            self.bench.sources.pop(name, None)
            self.left_out[name] = why
            warnings.warn(why, InputWarning, stacklevel=4)

    def checks(self) -> list[Check]:
        """Five of the sanity checks."""
        config, samples = self.bench.config, self.samples[: len(self.probes)]
        network = self.network

        def gradient(images: Tensor) -> Tensor:
            leaf = images.detach().clone().requires_grad_()
            with torch.enable_grad():
                loss = self.bench.subject.opinion(leaf, samples).loss.sum()
            return torch.autograd.grad(loss, leaf)[0]

        if isinstance(network, ClassifierUnderAudit):
            targeted = config.target_class is not None
            return checks_of_network(network.raw, gradient, self.probes, network.kind, network.classes, targeted)
        return checks_of_network(lambda x: network.scores(x).concepts, gradient, self.probes, None, 0, False)


def set_stage(config: AuditConfig, generator: Any, parties: Parties, borrowed: ExitStack) -> Stage:
    """Make and try everything; the networks are in evaluation mode and without gradients until `borrowed` ends.

    Raises:
        InvalidInput: anything that does not fit; NotDifferentiable, NonFinite: see `ClassifierUnderAudit.probe`.
    """
    embedded = is_embedded(generator.pipe)
    painter = painter_for(generator, config)
    prompts = prompts_of(config, embedded)
    network, names = _network(config, parties, painter)
    others = [party.network for party in (parties.judge, *parties.transfer) if party is not None]
    borrowed.enter_context(lent(network.module, *(module_in(other) for other in others)))
    if network.module is not None:
        network.module.to(generator.pipe.device)
    elif config.harden:
        raise InvalidInput(f"harden: {network.name} is a plain function without weights; give the torch module")
    probes = _probes(config, painter, prompts)
    transfer: dict[str, ClassifierUnderAudit] = {}
    subject: Subject
    classes = 0
    if isinstance(network, ClassifierUnderAudit):
        network.probe(probes, config.classes)
        classes = network.classes
        if config.loss_name == "dlr" and not enough_classes(classes, config.target_class is not None):
            raise InvalidInput(f"the loss 'dlr' is for more classes than the {classes} of {network.name}")
        transfer = _transfer(parties, network, probes)
        subject = ClassifierSubject(network, config.loss_name, names)
    else:
        network.probe(probes)
        subject = FilterSubject(network)
    objects = parties.embedded
    samples = make_samples(config, prompts, classes, names, objects)
    judge, judged = _judge(config, parties, classes or None, samples, probes)
    after = config.seed + len(samples)
    held_out = make_samples(config, prompts, classes, names, objects, after, config.held_out_noises)
    controls = _controls(config, embedded, after + len(held_out))
    sources, left_out = _sources(config, painter, subject)
    bench = Bench(config, painter, subject, judge, transfer, sources)
    return Stage(bench, network, samples, held_out, controls, judged, embedded, left_out, names, probes)


def _controls(config: AuditConfig, embedded: bool, seed: int) -> list[Sample]:
    """Images whose verdict shall stay, two noises of each: one to learn from, one to look at."""
    prompts = config.control_prompts or (CONTROL_PROMPTS[config.mode] if embedded else ())
    if config.harden and not prompts:
        raise InvalidInput("harden needs control_prompts: images whose verdict shall stay as it is")
    return [Sample(2 * i + k, prompt, seed + 2 * i + k) for i, prompt in enumerate(prompts) for k in range(2)]


def _network(
    config: AuditConfig, parties: Parties, painter: Painter
) -> tuple[ClassifierUnderAudit | FilterUnderAudit, tuple[str, ...]]:
    """The network under audit and the names of its classes."""
    found, name = parties.network.network, parties.network.name
    if config.mode == "filter":
        return FilterUnderAudit(food_filter(painter) if parties.embedded else found, name), ()
    names = config.classes
    if parties.embedded:
        from adjointdpm.zoo.objects import OBJECTS

        names = names or tuple(OBJECTS)
    steps = [(step, load_function(step)) for step in config.preprocessing]
    return ClassifierUnderAudit(found, name, config.outputs, steps), names


def _probes(config: AuditConfig, painter: Painter, prompts: Sequence[str]) -> Tensor:
    """A few clean images, which also shows that the prompts can be painted."""
    count = min(PROBED, len(prompts) * config.noises)
    embeds, negative = painter.encode([prompts[i // config.noises] for i in range(count)])
    with torch.no_grad():
        out = painter.generate(embeds, negative, [config.seed + i for i in range(count)])
    image: Tensor = out.image.detach().float()
    return image


def _transfer(parties: Parties, audited: ClassifierUnderAudit, probes: Tensor) -> dict[str, ClassifierUnderAudit]:
    """The further classifiers, tried where their weights are."""
    networks = {party.name: ClassifierUnderAudit(party.network, party.name) for party in parties.transfer}
    for network in networks.values():
        network.try_out(probes.to(network.device))
        if network.classes != audited.classes:
            raise InvalidInput(
                f"transfer: {network.name} has {network.classes} outputs, {audited.name} has {audited.classes}; "
                "expected the same classes in the same order"
            )
    return networks


def _judge(
    config: AuditConfig, parties: Parties, classes: int | None, samples: Sequence[Sample], probes: Tensor
) -> tuple[Judge, bool]:
    """The judge, tried on the clean images of the first samples, and whether there is one."""
    party = parties.judge
    if party is not None:
        if party.network is None:
            check_named(samples, config.mode)
            return embedded_judge(config.mode), True
        judge = wrapped_judge(party.network, party.name, config.mode, classes)
        with trial():
            judge(probes.cpu(), samples[: len(probes)])
        return judge, True
    warnings.warn(
        "no judge: every change of the verdict counts, also where the image no longer shows its class; name one with "
        "judge",
        InputWarning,
        stacklevel=4,
    )
    return no_judge, False


def _sources(config: AuditConfig, painter: Painter, subject: Subject) -> tuple[dict[str, Source], dict[str, str]]:
    sources: dict[str, Source] = {"exact": make_source("exact", painter, subject)}
    left_out: dict[str, str] = {}
    for name in config.baselines:
        if name in ("one_step", "adjoint"):
            try:
                sources[name] = make_source(name, painter, subject)
            except (InvalidInput, NotDifferentiable) as error:
                left_out[name] = str(error)
                warnings.warn(str(error), InputWarning, stacklevel=4)
    return sources, left_out
