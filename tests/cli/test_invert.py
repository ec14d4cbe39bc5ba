"""`adjointdpm invert` and `invert-image` on a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from adjointdpm.cli import invert as command
from adjointdpm.cli.app import app
from adjointdpm.cli.options import key_values
from adjointdpm.errors import InvalidInput
from adjointdpm.tasks import InvertConfig

QUICK = ("--steps", 2, "--epochs", 2, "--unseen-prompt", "cat", "--unseen-seed", 9)


@pytest.fixture
def invert(cli: Callable[..., Any], tiny_folder: Path) -> Callable[..., Any]:
    def run(*arguments: object) -> Any:
        return cli("invert", "--model", tiny_folder, "--device", "cpu", *arguments)

    return run


def test_an_effect_end_to_end(invert: Callable[..., Any], cli: Callable[..., Any], tiny_folder: Path) -> None:
    ran = invert("red apple", "blue fish", "--effect", "sepia", *QUICK, "--out", "run")
    assert ran.code == 0, ran.err
    assert "run/report.html" in ran.out
    assert Path("run/report.html").read_text().startswith("<!")
    line = next(line for line in ran.out.splitlines() if line.startswith("use it"))
    painted = cli(*line.split("adjointdpm ")[1].replace("'", "").split(), "--device", "cpu")
    assert painted.code == 0, painted.err
    again = invert("red apple", "blue fish", "--effect", "sepia", *QUICK, "--out", "run")
    assert again.code == 2
    assert "--resume" in again.err
    resumed = invert("--resume", "--out", "run", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.document["report"] == "run/report.html"
    other = invert("--resume", "--out", "run", "--lr", 0.3)
    assert other.code == 2
    assert "lr" in other.err


def test_target_image_and_token_space(invert: Callable[..., Any]) -> None:
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save("edited.png")
    ran = invert("red apple", "--target", "edited.png", "--space", "token", "--token", "<gray>", *QUICK, "--json")
    assert ran.code == 0, ran.err
    assert ran.document["results"]["gap_closed_unseen"] is None
    assert Path(ran.document["embedding"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["red"], ["exactly one of --effect, --target and --target-words"]),
        (["red", "--effect", "sepia", "--target-words", "sepia"], ["exactly one"]),
        (["--effect", "sepia"], ["PROMPT... is missing"]),
        (["red", "--effect", "sepiaa"], ["sepiaa", "'sepia'"]),
        (["red", "--effect", "sepia", "--space", "time"], ["--space 'time'", "token"]),
        (["red", "--effect", "sepia", "--lr", "-1"], ["--lr -1.0", "greater than 0"]),
        (["red", "--effect", "sepia", "--rows", "99"], ["99"]),
        (["red", "--effect", "sepia", "--loss", "none"], ["'none'", "perceptual"]),
        (["red", "--effect", "sepia", "--preset", "book"], ["--preset 'book'"]),
        (["red", "blue", "--seed", 1, "--seed", 2, "--seed", 3, "--effect", "sepia"], ["2 prompts and 3 seeds"]),
        (["red", "--effect", "sepia", "--effect-option", "angle"], ["NAME=VALUE"]),
        (["red", "--effect", "sepia", "--gradient", "adjoint"], ["adjoint", "solver"]),
        (["red", "--effect", "sepia", "--resume"], ["--resume", "no run"]),
        (["red", "--target", "nowhere.png"], ["nowhere.png"]),
        (["red", "--config", "nowhere.json"], ["nowhere.json"]),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    invert: Callable[..., Any], tmp_path: Path, arguments: list[object], words: list[str]
) -> None:
    ran = invert(*arguments)
    assert ran.code == 2, ran.err
    assert ran.err.count("error:") == 1
    assert all(word in ran.err for word in words), ran.err
    assert list(tmp_path.iterdir()) == []


def test_target_that_is_no_image(invert: Callable[..., Any]) -> None:
    Path("edited.png").write_text("<svg/>")
    ran = invert("red", "--target", "edited.png")
    assert ran.code == 2
    assert "edited.png" in ran.err


def test_config_file_and_options(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"prompts": ["red"], "effect": "sepia", "lr": 0.5, "preset": "paper"}))
    config = command.settings({"out": tmp_path / "x", "lr": 0.2, "seeds": [3], "epochs": None}, file, False)
    assert (config.lr, config.seeds, config.epochs, config.variant) == (0.2, (3,), 50, "fill")
    for text, word in (("[1]", "list"), ("{", "JSON"), ('{"colour": 1, "size": 2}', "'colour', 'size'")):
        file.write_text(text)
        with pytest.raises(InvalidInput, match=word):
            command.settings({"out": tmp_path / "x"}, file, False)


def test_every_field_of_the_configuration_has_an_option() -> None:
    parameters = get_command(app).commands["invert"].params  # type: ignore[attr-defined]
    options = {name for parameter in parameters for name in parameter.opts}
    flags = {command.FLAGS.get(name, "--" + name.replace("_", "-")) for name in InvertConfig.model_fields}
    assert flags - options == {"PROMPT..."}


def test_effect_options_are_json_or_text() -> None:
    assert key_values(["angle=30", "mode=soft", "colors=[1, 2]"]) == {"angle": 30, "mode": "soft", "colors": [1, 2]}
    assert key_values(None) is None


@pytest.mark.timeout(900)
def test_sigterm_saves_and_exits_with_143(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ["invert", "red apple", "--effect", "sepia", "--steps", "2", "--epochs", "5000", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "adjointdpm", *arguments, "--model", str(tiny_folder), "--device", "cpu"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 600
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=250)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert "saved in run" in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "run" / "checkpoint.json").is_file()


def test_invert_image_round_trip(cli: Callable[..., Any], tiny_folder: Path) -> None:
    model = ("--model", tiny_folder, "--device", "cpu")
    assert cli("generate", "red apple", "--steps", 2, *model).code == 0
    ran = cli("invert-image", "out/0000-red-apple.png", "--prompt", "red apple", "--steps", 8, *model, "--json")
    assert ran.code == 0, ran.err
    found = ran.document
    assert found["psnr_db"] <= found["autoencoder_psnr_db"] + 1
    again = found["again"].replace("'", "").split("adjointdpm generate red apple ")[1].split()
    assert cli("generate", "red apple", *again, "--device", "cpu", "--out", "again").code == 0
    first, second = (np.asarray(Image.open(p)) for p in (found["reconstruction"], "again/0000-red-apple.png"))
    assert np.array_equal(first, second)
    other = cli("generate", "red apple", "--noise", found["noise"], "--steps", 2, *model, "--out", "other")
    assert "--solver ab4" in other.err
    assert cli("invert-image", "out/0000-red-apple.png", *model).code == 2


@pytest.mark.parametrize(("name", "content"), [("text.png", b"hello"), ("empty.png", b"")])
def test_invert_image_of_something_else(
    cli: Callable[..., Any], tiny_folder: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    Path(name).write_bytes(content)
    ran = cli("invert-image", name, "--model", tiny_folder)
    assert ran.code == 2
    assert name in ran.err
    assert [file.name for file in tmp_path.iterdir()] == [name]
