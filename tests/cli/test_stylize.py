"""`adjointdpm stylize` on a tiny model."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from adjointdpm.cli import stylize as command
from adjointdpm.cli.app import app
from adjointdpm.tasks.stylize.config import StylizeConfig

NETWORKS = Path(__file__).parents[1] / "tasks" / "stylize" / "networks.py"
QUICK = (
    "--steps", 2, "--epochs", 1, "--prompt", "red apple", "--prompt", "cat", "--seed", 1, "--pairs-per-step", 2,
    "--features", f"{NETWORKS}:optimised", "--unseen-prompt", "dog", "--unseen-seed", 9, "--measure", "none",
)  # fmt: skip


@pytest.fixture
def stylize(cli: Callable[..., Any], tiny_folder: Path) -> Callable[..., Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("style.png")

    def run(*arguments: object) -> Any:
        return cli("stylize", "--model", tiny_folder, "--device", "cpu", *arguments)

    return run


def test_a_style_end_to_end(stylize: Callable[..., Any], tiny_folder: Path) -> None:
    ran = stylize("style.png", *QUICK, "--out", "run")
    assert ran.code == 0, ran.err
    assert "run/report.html" in ran.out
    assert Path("run/report.html").read_text().startswith("<!")
    assert Path("run/weights/pytorch_lora_weights.safetensors").is_file()
    assert Path("run/weights/unet/config.json").is_file()
    again = stylize("style.png", *QUICK, "--out", "run")
    assert again.code == 2
    assert "--resume" in again.err
    resumed = stylize("--resume", "--out", "run", "--json")
    assert resumed.code == 0, resumed.err
    document = resumed.document
    assert document["report"] == "run/report.html"
    assert set(document["results"]["sets"]) == {"training pairs", "unseen noises", "unseen prompts"}
    assert document["results"]["sets"]["unseen prompts"]["images"] == 1  # what only the report shows is resumed too
    other = stylize("--resume", "--out", "run", "--lr", 0.3)
    assert other.code == 2
    assert "lr" in other.err


def test_the_printed_command_repeats_it(stylize: Callable[..., Any], cli: Callable[..., Any]) -> None:
    ran = stylize("style.png", *QUICK, "--solver", "euler", "--gradient", "full", "--dtype", "float64", "--out", "run")
    line = next(line for line in ran.out.splitlines() if line.startswith("the same"))
    words = shlex.split(line)[3:]
    again = cli(*words, "--device", "cpu")
    assert again.code == 0, again.err
    first, second = (json.loads(Path(folder, "run.json").read_text()) for folder in ("run", "run-again"))
    assert first["results"]["sets"] == second["results"]["sets"]
    assert first["identity"] == second["identity"]
    assert shlex.join(words) in html.unescape(Path("run/report.html").read_text())


def test_settings_from_yaml_beneath_options(stylize: Callable[..., Any]) -> None:
    Path("settings.yaml").write_text("style: style.png\nweights: cross-attention\ncontent_weight: 3\nepochs: 7\n")
    ran = stylize(*QUICK, "--config", "settings.yaml", "--out", "run", "--json")
    assert ran.code == 0, ran.err
    config = json.loads(Path("run/config.json").read_text())
    assert (config["weights"], config["content_weight"], config["epochs"]) == ("cross-attention", 3, 1)
    assert not Path("run/weights/pytorch_lora_weights.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["IMAGE is missing"]),
        (["nowhere.png"], ["nowhere.png"]),
        (["dot.png"], ["dot.png", "1 x 1", "no texture"]),
        (["text.png"], ["text.png", "cannot be read"]),
        (["style.png", "--features", "vgg16"], ["'vgg16'", "vgg19"]),
        (["style.png", "--features", "judge"], ["judge", "optimised"]),
        (["style.png", "--weights", "unet"], ["--weights 'unet'", "lora"]),
        (["style.png", "--style-weight", 0], ["--style-weight", "nothing to learn"]),
        (["style.png", "--content-weight", "nan"], ["nan", "finite"]),
        (["style.png", "--style-layer", 9], ["layer 9"]),
        (["style.png", "--lr", -1], ["--lr -1.0", "greater than 0"]),
        (["style.png", "--memory", "lots"], ["lots"]),
        (["style.png", "--tracker", "paper"], ["--tracker 'paper'"]),
        (["style.png", "--resume"], ["--resume", "no run"]),
        (["style.png", "--preset", "book"], ["--preset 'book'"]),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    stylize: Callable[..., Any], tmp_path: Path, arguments: list[object], words: list[str]
) -> None:
    Image.new("RGB", (1, 1)).save("dot.png")
    Path("text.png").write_text("<svg/>")
    before = sorted(tmp_path.iterdir())
    ran = stylize(*arguments, *(QUICK if "--features" not in arguments else ()))
    assert ran.code == 2, ran.err
    assert ran.err.count("error:") == 1
    assert all(word in ran.err for word in words), ran.err
    assert sorted(tmp_path.iterdir()) == before


def test_an_animation_and_cmyk_are_converted_and_said(stylize: Callable[..., Any]) -> None:
    frames = [Image.effect_noise((24, 24), 90).convert("RGB") for _ in range(3)]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    frames[0].convert("CMYK").save("print.jpg")
    for name, words in (("moving.gif", "3 frames: the first one is taken"), ("print.jpg", "without a colour profile")):
        ran = stylize(name, *QUICK, "--out", Path(name).stem)
        assert ran.code == 0, ran.err
        assert words in ran.err


def test_every_field_of_the_configuration_has_an_option() -> None:
    parameters = get_command(app).commands["stylize"].params  # type: ignore[attr-defined]
    options = {name for parameter in parameters for name in parameter.opts}
    flags = {command.FLAGS.get(name, "--" + name.replace("_", "-")) for name in StylizeConfig.model_fields}
    assert flags - options == {"IMAGE"}
