"""`adjointdpm reward` on a tiny model."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from adjointdpm.cli import reward as command
from adjointdpm.cli.app import app
from adjointdpm.tasks import RewardConfig
from tests.cli.conftest import cli, tiny_folder

__all__ = ["cli", "tiny_folder"]  # fixtures
QUICK = ("--steps", 2, "--epochs", 2, "--held-out", "chroma", "--unseen-prompt", "dog", "--unseen-seed", 9)


@pytest.fixture
def reward(cli: Callable[..., Any], tiny_folder: Path) -> Callable[..., Any]:
    def run(*arguments: object) -> Any:
        return cli("reward", "--model", tiny_folder, "--device", "cpu", *arguments)

    return run


def test_noise_end_to_end_and_again(reward: Callable[..., Any], cli: Callable[..., Any], tiny_folder: Path) -> None:
    ran = reward("red apple", "--reward", "0.5*colourfulness", "--reward", "-1*jpeg=60", *QUICK, "--out", "run")
    assert ran.code == 0, ran.err
    assert "verdict" in ran.out
    page = Path("run/report.html").read_text()
    assert page.startswith("<!")
    again = re.search(r"adjointdpm reward [^<]*", html.unescape(page))
    assert again is not None
    assert "--reward=-1*jpeg=60" in again[0]
    repeated = cli(*shlex.split(again[0])[1:])
    assert repeated.code == 0, repeated.err
    first, second = (json.loads(Path(f"{name}/run.json").read_text()) for name in ("run", "run-again"))
    assert first["results"]["seen"] == second["results"]["seen"]
    assert first["config"] == second["config"]
    painted = cli("generate", "red apple", "--noise", "run/noise.safetensors", "--steps", 2, "--model", tiny_folder)
    assert painted.code == 0, painted.err


def test_a_run_is_resumed_with_its_own_sampler_and_any_batch(cli: Callable[..., Any], tiny_folder: Path) -> None:
    sampler = ("--solver", "ab2", "--spacing", "karras", "--form", "raw", "--gradient", "full")
    ran = cli("reward", "red apple", "--reward", "chroma", *QUICK[:4], *sampler, "--model", tiny_folder)
    assert ran.code == 0, ran.err
    resumed = cli("reward", "--resume", "--batch", 1)
    assert resumed.code == 0, resumed.err
    assert json.loads(Path("reward/run.json").read_text())["free"]["batch_size"] == 1
    for option, value, message in (("--solver", "ab4", "solver (was ab2, now ab4)"),
                                   ("--dtype", "float64", "dtype (was torch.float32, now torch.float64)")):  # fmt: skip
        other = cli("reward", "--resume", option, value)
        assert other.code == 2
        assert message in other.err


def test_a_lora_as_json_from_a_settings_file(reward: Callable[..., Any]) -> None:
    Path("settings.yaml").write_text("optimise: weights\nrewards: [2*sharpness]\nrank: 2\nprompts: [cat, dog]\n")
    ran = reward("--config", "settings.yaml", *QUICK, "--out", "lora", "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert document["verdict"] in ("confirmed", "undecided", "hacked")
    assert "lora/pytorch_lora_weights.safetensors" in document["files"]
    assert document["results"]["unseen"]["sharpness"]["images"] == 1
    resumed = reward("--resume", "--out", "lora", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.document["results"] == document["results"]
    refused = reward("--out", "lora")
    assert refused.code == 2
    assert "--resume" in refused.err


def test_hacking_is_a_warning(reward: Callable[..., Any]) -> None:
    Path("mine.py").write_text(
        "from adjointdpm.losses.rewards import colourfulness\n\n\ndef grey(x, prompts):\n    return -colourfulness(x)\n"
    )
    how = ("--held-out", "mine.py:grey", "--steps", 2, "--epochs", 8, "--lr", 0.1, "--json", "--typicality", "none")
    ran = reward("red apple", "--seed", 1, "--seed", 2, "--seed", 3, *how)
    assert ran.code == 0, ran.err
    assert ran.document["verdict"] == "hacked"
    assert any("reward hacking" in warning for warning in ran.document["warnings"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reward", "colorfulness"), "did you mean 'colourfulness'"),
        (("--reward", "0*jpeg"), "has the weight 0"),
        (("--gradient", "truncated"), "gradient to the noise is zero"),
        (("--optimise", "pixels"), "--optimise"),
        (("--held-out", "colourfulness"), "cannot judge"),
        (("--lr", "nan"), "not a finite number"),
        (("--preset", "paper"), "--preset"),
        (("--typicality-weight", "-2"), "--typicality-weight"),
    ],
)
def test_bad_options(reward: Callable[..., Any], arguments: tuple[str, ...], message: str) -> None:
    ran = reward("red apple", "--steps", 2, "--out", "bad", *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert not Path("bad").exists()


def test_every_setting_has_an_option() -> None:
    command_line = get_command(app).commands["reward"]  # type: ignore[attr-defined]
    options = {name for parameter in command_line.params for name in parameter.opts}
    from adjointdpm.cli.settings import flag

    for field in RewardConfig.model_fields:
        name = flag(field, command.FLAGS)
        assert name in options or name == "PROMPT...", field
