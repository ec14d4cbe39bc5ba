"""Options and settings files of tasks, and processes that share a command."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.settings import flag, recorded_options
from adjointdpm.cli.settings import task_settings as any_task_settings
from adjointdpm.cli.shell import Shell
from adjointdpm.errors import InvalidInput
from adjointdpm.tasks import InvertConfig

task_settings = partial(any_task_settings, task="invert", folder="inversion")


def test_yaml_beneath_options(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("prompts: [red, blue]\neffect: sepia\nlr: 5e-1\nmixed_precision: no\n")
    config = task_settings(InvertConfig, {"out": tmp_path / "x", "lr": 0.2, "seeds": [], "epochs": None}, file)
    assert (config.prompts, config.lr, config.seeds, config.mixed_precision) == (("red", "blue"), 0.2, (0,), "no")


def test_messages_speak_of_options(tmp_path: Path) -> None:
    given = {"out": tmp_path / "x", "prompts": ["a", "b"], "effect": "sepia"}
    with pytest.raises(InvalidInput, match=r"^--pairs-per-step=3, but there are 2 pairs"):
        task_settings(InvertConfig, {**given, "pairs_per_step": 3})
    with pytest.raises(InvalidInput, match=r"^--guidance inf: "):
        task_settings(InvertConfig, {**given, "guidance_scale": float("inf")})
    assert flag("batch_size") == "--batch"
    assert flag("seeds", {"seeds": "--seed"}) == "--seed"
    assert flag("weight_decay") == "--weight-decay"


def test_a_run_is_resumed_only_if_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"out": tmp_path}
    with pytest.raises(InvalidInput, match="there is no run in"):
        task_settings(InvertConfig, given, resume=True)
    (tmp_path / "run.json").write_text(
        json.dumps({"task": "invert", "config": {"prompts": ["red"], "effect": "sepia", "epochs": 7}})
    )
    with pytest.raises(InvalidInput, match="holds a run already; say --resume"):
        task_settings(InvertConfig, {**given, "prompts": ["red"], "effect": "sepia"})
    assert task_settings(InvertConfig, {**given, "epochs": None}, resume=True).epochs == 7
    assert task_settings(InvertConfig, {**given, "epochs": 9}, resume=True).epochs == 9
    recorded: dict[str, Any] = {"task": "invert", "config": {"prompts": ["red"], "effect": "sepia"}}
    recorded["free"] = {"tracker": "tensorboard"}
    (tmp_path / "run.json").write_text(json.dumps(recorded))
    assert task_settings(InvertConfig, given, resume=True).tracker == "tensorboard"  # not a default, though it is free
    monkeypatch.setenv("RANK", "1")  # beside the main process, which may have begun the run
    assert task_settings(InvertConfig, {**given, "prompts": ["red"], "effect": "sepia"}).epochs == 50
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InvalidInput, match="is not the record of a run"):
        task_settings(InvertConfig, given, resume=True)


def test_a_run_of_another_task_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"task": "audit", "config": {"taus": [0.1]}}))
    with pytest.raises(InvalidInput, match=r"holds a run of audit, not of invert"):
        task_settings(InvertConfig, {"out": tmp_path}, resume=True)


def test_the_folder_may_be_named_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("settings.yaml").write_text("{prompts: red, effect: sepia, out: elsewhere}")
    given = {"out": None}
    assert task_settings(InvertConfig, given, Path("settings.yaml")).out == Path("elsewhere")
    assert task_settings(InvertConfig, {"out": Path("here")}, Path("settings.yaml")).out == Path("here")
    Path("settings.yaml").write_text("{prompts: red, effect: sepia}")
    config = task_settings(InvertConfig, given, Path("settings.yaml"))
    assert (config.out, config.prompts) == (Path("inversion"), ("red",))


def test_what_was_empty_in_a_run_stays_empty(tmp_path: Path) -> None:
    recorded = {"prompts": ["red"], "effect": "sepia", "unseen_prompts": [], "batch_size": None, "target_images": []}
    (tmp_path / "run.json").write_text(json.dumps({"task": "invert", "config": recorded}))
    assert task_settings(InvertConfig, {"out": tmp_path, "unseen_prompts": []}, resume=True).unseen_prompts == ()
    file = tmp_path / "settings.yaml"
    file.write_text("{prompts: red, effect: sepia, unseen_prompts: [], batch_size: null}")
    assert task_settings(InvertConfig, {"out": tmp_path / "new"}, file).unseen_prompts == ()


def test_a_resumed_run_has_its_own_sampler_and_model(tmp_path: Path) -> None:
    options = "--lr=0.1 --solver=ab4 --form=raw '--model=some folder' --dtype=bfloat16 --out=x"
    again = f"adjointdpm invert {options} -- 'red = 1' --form=x"
    (tmp_path / "run.json").write_text(json.dumps({"config": {}, "again": again}))
    road = {"solver": None, "spacing": None, "form": "angle", "gradient": None}
    found, choice = recorded_options(tmp_path, road, ModelChoice(device="cpu"))
    assert found == {"solver": "ab4", "spacing": None, "form": "angle", "gradient": None}
    assert choice == ModelChoice("some folder", None, "cpu", "bfloat16")
    begun_in_python = 'adjointdpm.tasks.invert(adjointdpm.tasks.InvertConfig(prompts=["it\'s"]), generator)'
    (tmp_path / "run.json").write_text(json.dumps({"config": {}, "again": begun_in_python}))
    assert recorded_options(tmp_path, road, ModelChoice()) == (road, ModelChoice())


def test_a_mute_shell_tells_errors_only() -> None:
    for as_json in (False, True):
        out, err = io.StringIO(), io.StringIO()
        shell = Shell(as_json, out, err, mute=True)
        shell.say("result")
        shell.note("remark")
        shell.warn("warning")
        shell.emit({"command": "x"})
        with shell.progress("working", 3) as update:
            update(1)
        assert out.getvalue() == err.getvalue() == ""
        shell.error("it broke")
        assert "it broke" in err.getvalue()


def test_only_the_main_process_of_a_launcher_speaks(
    cli: Callable[..., Any], tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["plan", "--model", tiny_folder, "--device", "cpu", "--steps", 2, "--json"]
    monkeypatch.setenv("RANK", "1")
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (0, "")
    monkeypatch.setenv("RANK", "0")
    assert cli(*arguments).document["steps"] == 2


def test_names_between_colons_are_printed_as_they_are() -> None:
    out = io.StringIO()
    Shell(False, out, io.StringIO()).say("out/:dog:/report.html")
    assert out.getvalue() == "out/:dog:/report.html\n"


def test_a_module_that_ends_the_program_is_an_error(tmp_path: Path) -> None:
    from adjointdpm.losses.load import load_function

    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(InvalidInput, match=r"cannot import .*SystemExit"):
        load_function(f"{tmp_path / 'exits.py'}:f")
