"""The command that repeats an audit, read by the command line itself."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adjointdpm.cli import audit
from adjointdpm.cli.again import command_again
from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.settings import task_settings
from adjointdpm.tasks import AuditConfig

CASES: dict[str, dict[str, Any]] = {
    "classifier": {
        "prompts": ("red apple", "-40 degrees"), "labels": ("1", "2"), "classes": ("cat", "it's"), "noises": 3,
        "network": "a.py:b", "outputs": "one_probability", "preprocessing": ("c:d", "e:f"), "target_class": "it's",
        "judge": "g:h", "transfer": ("i:j", "k:l"), "taus": (0.05, 1 / 3), "norm": "l2", "loss": "dlr",
        "optimiser": "apgd", "step_size": 1e-3, "restarts": 2, "baselines": ("random", "adjoint"), "images": True,
        "harden": True, "harden_lr": 1e-5, "control_prompts": ("dog",), "negative_prompt": "blurred",
        "guidance_scale": -1, "batch_size": 7, "checkpoint_every": 2, "tracker": "tensorboard", "preset": "paper",
    },
    "alone": {"baselines": (), "prompts": ("cat",)},
    "generator": {"generator": "mine.py:make", "generator_options": {"seed": 3, "kind": "soft"}, "labels": ("1",),
                  "prompts": ("3",)},
    "filter": {"mode": "filter", "owner": "the zoo", "purpose": "a test", "prompts": ("red apple", "cake"),
               "negative_prompt": "blurred", "harden": True, "control_prompts": ("dog",), "network": "safety_checker"},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_printed_command_says_every_setting(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = AuditConfig(out=Path("run"), **CASES[name])
    road = {"solver": "ab4", "spacing": None, "form": "raw"}
    choice = ModelChoice("some folder", "fp16", dtype="bfloat16")
    read: list[Any] = []
    monkeypatch.setattr(audit, "audit", lambda shell, *rest: read.extend(rest) or 0)
    command = command_again("audit", config.shown(), audit.FLAGS, road, choice, empty={"baselines": "none"})
    ran = cli(*shlex.split(command)[1:])
    assert ran.code == 0, ran.err
    given, config_file, resume, its_road, its_choice = read
    assert (config_file, resume, its_road, its_choice) == (None, False, road, choice)
    wanted = config.shown().model_copy(update={"out": Path("run-again"), "preset": None})
    assert task_settings(AuditConfig, given, task="audit", folder="x", flags=audit.FLAGS) == wanted
    if name == "filter":
        assert not any(word in command for word in ("apple", "cake", "blurred", "dog"))
