"""`adjointdpm guide` on a tiny model."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
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

from adjointdpm.cli.app import app
from adjointdpm.cli.guide import FLAGS, edges
from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.guide.config import GuideConfig

QUICK = ("--steps", 2, "--updates", 2, "--seed", 0, "--candidates", 1, "--optimise", "noise")


@pytest.fixture
def guide(cli: Callable[..., Any], tiny_folder: Path) -> Callable[..., Any]:
    def run(*arguments: object) -> Any:
        return cli("guide", "--model", tiny_folder, "--device", "cpu", *arguments)

    return run


def small(name: str = "small.png") -> str:
    Image.fromarray(np.full((2, 2, 3), 90, np.uint8)).save(name)
    return name


def test_end_to_end_and_the_noise_paints_the_image_again(
    guide: Callable[..., Any], cli: Callable[..., Any], tiny_folder: Path
) -> None:
    ran = guide("red apple", "blue fish", "--low-res", small(), *QUICK, "--out", "run")
    assert ran.code == 0, ran.err
    assert "run/report.html" in ran.out
    assert "dB (median)" in ran.out
    assert Path("run/report.html").read_text().startswith("<!")
    noise = "run/0001-blue-fish-seed0.noise.safetensors"
    painted = cli("generate", "blue fish", "--noise", noise, "--steps", 2, "--model", tiny_folder, "--device", "cpu")
    assert painted.code == 0, painted.err
    assert "warning" not in painted.err
    first, second = (np.asarray(Image.open(p)) for p in ("run/0001-blue-fish-seed0.png", "out/0000-blue-fish.png"))
    assert np.abs(first.astype(int) - second).max() <= 1
    again = guide("red apple", "blue fish", "--low-res", "small.png", *QUICK, "--out", "run")
    assert again.code == 2
    assert "--resume" in again.err
    resumed = guide("--resume", "--out", "run", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.document["report"] == "run/report.html"
    assert len(resumed.document["images"]) == 2
    assert all(Path(image).is_file() for image in resumed.document["images"])
    other = guide("--resume", "--out", "run", "--lr", 0.3)
    assert other.code == 2
    assert "lr" in other.err


def test_the_command_in_the_report_repeats_the_run(guide: Callable[..., Any], cli: Callable[..., Any]) -> None:
    given = ("red apple", "--box", "0,0,8,8", "--weight", "collage=3", "--symmetry", "both", *QUICK)
    road = ("--solver", "euler", "--gradient", "full", "--dtype", "float64")
    ran = guide(*given, *road, "--recogniser", "none", "--out", "run")
    assert ran.code == 0, ran.err
    command = re.search(r"adjointdpm guide [^<]*", Path("run/report.html").read_text())
    assert command is not None
    again = cli(*shlex.split(html.unescape(command[0]))[1:], "--device", "cpu")
    assert again.code == 0, again.err
    first, second = (json.loads(Path(f"{name}/run.json").read_text()) for name in ("run", "run-again"))
    assert first["results"]["cases"] == second["results"]["cases"]
    assert first["identity"] == second["identity"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["red"], ["nothing is asked of the image"]),
        (["--box", "0,0,8,8"], ["PROMPT... is missing"]),
        (["red", "--box", "0,0,8"], ["--box '0,0,8'", "four numbers"]),
        (["red", "--box", "a,b,c,d"], ["--box", "four numbers"]),
        (["red", "--box", "4,4,4,8"], ["--box", "no area"]),
        (["red", "--box", "0,0,8,99"], ["reaches out of the image of 16 x 16"]),
        (["red", "--mask", "nowhere.png"], ["nowhere.png cannot be read"]),
        (["red", "--box", "0,0,8,8", "--weight", "bx=1"], ["--weight", "no term 'bx'"]),
        (["red", "--box", "0,0,8,8", "--weight", "box"], ["--weight: 'box' is not NAME=VALUE"]),
        (["red", "--box", "0,0,8,8", "--weight", "box=-1"], ["--weight", "box=-1: expected a number, 0 or more"]),
        (["red", "--color", "reddish"], ["--color 'reddish'"]),
        (["red", "--size", "1.5"], ["--size 1.5", "less than 1"]),
        (["red", "--size", "nan"], ["nan"]),
        (["red", "--symmetry", "round"], ["--symmetry 'round'", "left-right"]),
        (["red", "--size", "0.3", "--weight", "foo=1"], ["no term 'foo'", "'low_resolution'"]),
        (["red", "--size", "0.3", "--weight", "color=1"], ["--weight", "nothing is asked"]),
        (["red", "--size", "0.3", "--sketch-blur", "2"], ["--sketch-blur: without effect without --sketch"]),
        (["red", "--size", "0.3", "--plateau", "3", "--lr-schedule", "cosine"], ["--plateau: without effect"]),
        (["red", "--image", "x.png"], ["--image needs --keep"]),
        (["red", "--box", "0,0,8,8", "--lr", "-1"], ["--lr -1.0", "greater than 0"]),
        (["red", "--box", "0,0,8,8", "--optimise", "all"], ["--optimise 'all'"]),
        (["red", "--box", "0,0,8,8", "--seed", "1", "--seed", "1"], ["given twice"]),
        (["red", "--box", "0,0,8,8", "--gradient", "adjoint"], ["adjoint", "solver"]),
        (["red", "--box", "0,0,8,8", "--resume"], ["--resume", "no run"]),
        (["red", "--config", "nowhere.yaml"], ["nowhere.yaml"]),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    guide: Callable[..., Any], tmp_path: Path, arguments: list[object], words: list[str]
) -> None:
    ran = guide(*arguments)
    assert ran.code == 2, ran.err
    assert ran.err.count("error:") == 1
    assert all(word in ran.err for word in words), ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_settings_file_lies_beneath_the_options(guide: Callable[..., Any]) -> None:
    Path("settings.yaml").write_text(
        "prompts: [red apple]\nseeds: [5]\nsize: 0.2\nsteps: 2\nupdates: 3\nweights: {size: 2}\n"
    )
    ran = guide("--config", "settings.yaml", "--updates", 1, "--json")
    assert ran.code == 0, ran.err
    assert ran.document["results"]["updates"] == 1
    assert ran.document["results"]["cases"][0]["seed"] == 5


def test_every_field_of_the_configuration_has_an_option() -> None:
    parameters = get_command(app).commands["guide"].params  # type: ignore[attr-defined]
    options = {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}
    flags = {FLAGS.get(name, "--" + name.replace("_", "-")) for name in GuideConfig.model_fields} - {"--preset"}
    assert {part for flag in flags for part in flag.split("/")} - options == {"PROMPT..."}


def test_edges() -> None:
    assert edges("0,1,2.5,3", "--box") == (0, 1, 2.5, 3)
    assert edges(None, "--box") is None
    with pytest.raises(InvalidInput, match="--keep-box"):
        edges("1 2 3 4", "--keep-box")


@pytest.mark.timeout(900)
def test_sigterm_saves_and_exits_with_143(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ["guide", "red apple", "--symmetry", "both", "--steps", "2", "--updates", "5000", "--out", "run"]
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
