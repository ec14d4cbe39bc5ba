"""A tiny generator, and settings for an audit of a tiny classifier whose labels are its own clean verdicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adjointdpm.pipelines import differentiable
from adjointdpm.tasks import AuditConfig
from adjointdpm.tasks.audit.network import ClassifierUnderAudit
from adjointdpm.tasks.audit.subject import as_saved
from adjointdpm.tasks.painter import Painter
from tests.support.tiny_pipeline import tiny_pipeline
from tests.tasks.audit.networks import Tiny, agrees

PROMPTS = ("red apple", "blue cat", "green dog", "star")


@pytest.fixture(scope="session")
def gen() -> Any:
    return differentiable(tiny_pipeline())


@pytest.fixture(scope="session")
def exact_gen() -> Any:
    """In float64, where rounding decides nothing."""
    return differentiable(tiny_pipeline().to(torch.float64))


@pytest.fixture
def network() -> Tiny:
    return Tiny().requires_grad_(False)


@pytest.fixture(scope="session")
def labels(gen: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, ...]:
    """The verdict on each prompt's clean image."""
    config = AuditConfig(out=tmp_path_factory.mktemp("labels"), prompts=PROMPTS, steps=2)
    painter = Painter(gen, config)
    embeds, negative = painter.encode(PROMPTS)
    with torch.no_grad():
        images = as_saved(painter.generate(embeds, negative, [0, 1, 2, 3]).image_unclamped)
    return tuple(ClassifierUnderAudit(Tiny(), "tiny", "logits").verdict(images).tolist())


@pytest.fixture
def settings(tmp_path: Any, labels: tuple[int, ...]) -> Any:
    """Makes a configuration; changes by name."""

    def make(**changes: Any) -> AuditConfig:
        base = {
            "out": tmp_path / "run",
            "prompts": PROMPTS,
            "labels": labels,
            "noises": 1,
            "steps": 2,
            "iterations": 3,
            "taus": (0.3, 1.0),
            "batch_size": 2,
        }
        return AuditConfig(**base | changes)

    return make


@pytest.fixture
def judged() -> Any:
    return agrees
