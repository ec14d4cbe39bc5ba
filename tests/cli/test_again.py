"""The command that repeats a run, read by the command line itself."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adjointdpm.cli import guide, reward, stylize
from adjointdpm.cli.again import command_again
from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.settings import task_settings
from adjointdpm.tasks.guide.config import GuideConfig
from adjointdpm.tasks.reward.config import RewardConfig
from adjointdpm.tasks.settings import TaskConfig
from adjointdpm.tasks.stylize.config import StylizeConfig

CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "guide": (
        guide,
        GuideConfig,
        {
            "prompts": ("red apple", "-40 degrees"), "seeds": (3, 4), "box": (0, 0, 8, 8.5), "size": 1 / 3,
            "weights": {"box": 2.5, "collage": 0}, "shell": False, "blend": (0.5, 2), "candidates": 3,
            "phrases": ("{prompt} at left",), "negative_prompt": "it's blue", "image": "a b.png", "guidance_scale": -1,
            "keep_box": (1, 2, 3, 4.25),
        },
    ),
    "reward": (
        reward,
        RewardConfig,
        {
            "prompts": ("cat", "dog"), "rewards": ("-1*jpeg=60", "0.1*classifier=3d whale"), "preset": "alignprop",
            "clip_norm": 0.1234567891, "rank": 3, "unseen_prompts": ("owl",), "lr": 1e-7,
        },
    ),
    "stylize": (
        stylize,
        StylizeConfig,
        {
            "style": "star.png", "preset": "paper", "epochs": 20, "style_layers": (-2, 1), "content_weight": 0,
            "mixed_precision": "bf16", "validate_every": 0,
        },
    ),
}  # fmt: skip
CASES["guide with nothing tried"] = (guide, GuideConfig, {"prompts": ("cat",), "size": 0.5, "blend": (), "phrases": ()})


@pytest.mark.parametrize("name", CASES)
def test_the_printed_command_says_every_setting(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module, cls, settings = CASES[name]
    name = name.split()[0]
    config: TaskConfig = cls(out="run", **settings)
    road = {"solver": "ab4", "spacing": None, "form": "raw"}
    road |= {} if name == "reward" else {"gradient": "full"}
    road |= {"memory": "2GB"} if name == "stylize" else {}
    choice = ModelChoice("some folder", "fp16", dtype="bfloat16")
    Path("star.png").touch()
    read: list[Any] = []
    monkeypatch.setattr(module, name, lambda shell, *rest: read.extend(rest) or 0)
    spelt: dict[str, Any] = {"joined": guide.JOINED, "empty": guide.EMPTY} if module is guide else {}
    command = command_again(name, config, module.FLAGS, road, choice, **spelt)
    ran = cli(*shlex.split(command)[1:])
    assert ran.code == 0, ran.err
    given, config_file, resume, its_road, its_choice = read
    assert (config_file, resume) == (None, False)
    wanted = config.model_copy(update={"out": Path("run-again"), "preset": None})
    assert task_settings(cls, given, task=name, folder="x", flags=module.FLAGS) == wanted
    assert its_road == road
    assert its_choice == choice
