"""Configurations that tasks share, and the files they are read from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.settings import TaskConfig, load_config, read_settings


class Config(TaskConfig):
    PAPER: ClassVar[Mapping[str, Any]] = {"lr": 1e-4, "epochs": 8}
    FREE: ClassVar[frozenset[str]] = frozenset({"show"})

    prompts: tuple[str, ...] = Field(min_length=1)
    lr: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    epochs: int = Field(default=5, ge=1)
    show: int = 3
    shown: tuple[float, ...] | None = None


def write(folder: Path, text: str, name: str = "settings.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_options_go_before_the_file_and_the_file_before_the_preset(tmp_path: Path) -> None:
    file = write(tmp_path, "prompts: [cat, dog]\nlr: 1e-3\npreset: paper\n")
    config = load_config(Config, file, {"out": "x", "steps": 4})
    assert config.prompts == ("cat", "dog")
    assert (config.lr, config.epochs, config.steps) == (1e-3, 8, 4)
    assert load_config(Config, file, {"out": "x", "lr": 0.5}).lr == 0.5
    assert load_config(Config, None, {"out": "x", "prompts": ["cat"]}).lr == 0.1


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    fields = {"prompts": ["cat", "no"], "mixed_precision": "no", "guidance_scale": 2.5, "batch_size": None}
    yaml = "prompts: [cat, no]\nmixed_precision: no\nguidance_scale: 2.5\nbatch_size: null\n"  # `no` is a word
    files = write(tmp_path, yaml), write(tmp_path, json.dumps(fields), "settings.json")
    assert read_settings(files[0]) == read_settings(files[1]) == fields
    configs = [load_config(Config, file, {"out": "x"}) for file in files]
    assert configs[0] == configs[1]
    assert read_settings(write(tmp_path, "a: true\nb: 'true'\nc: 0\n")) == {"a": True, "b": "true", "c": 0}
    assert read_settings(write(tmp_path, "# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- cat\n", "holds a YAML list; expected an object"),
        ("cat", "holds a YAML str"),
        ("prompts: [cat", "cannot be read as YAML"),
        ("a: 1\na: 2\n", "'a' is given twice"),
        ("a: &x [1]\nb: *x\n", "anchors and aliases are not read"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("a: {b: {c: &lol lol}}\n", "anchors"),
    ],
)
def test_yaml_that_is_not_plain_settings(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read_settings(write(tmp_path, text), "--config")
    assert "--config" in str(caught.value)
    assert "settings.yaml" in str(caught.value)


def test_json_that_is_not_settings(tmp_path: Path) -> None:
    for text, message in (("{", "cannot be read as JSON"), ("[1]", "JSON list"), ('{"a": 1, "a": 2}', "given twice")):
        with pytest.raises(InvalidInput, match=message):
            read_settings(write(tmp_path, text, "s.json"))
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_settings(tmp_path / "nowhere.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_settings(tmp_path / "bytes.yaml")
    with pytest.raises(InvalidInput, match="at most"):
        read_settings(write(tmp_path, "a: " + "x" * 5_000_000))


def test_all_that_is_wrong_is_one_message() -> None:
    given = {"steps": 0, "guidance_scale": float("nan"), "mixed_precision": "int8", "colour": 1, "size": 2}
    with pytest.raises(InvalidInput) as caught:
        load_config(Config, None, given)
    message = str(caught.value)
    assert "steps 0: Input should be greater than or equal to 1" in message
    assert "guidance_scale nan: Input should be a finite number" in message
    assert "mixed_precision 'int8': Input should be 'no', 'bf16' or 'fp16'" in message
    assert "out is missing" in message
    assert "unknown settings 'colour', 'size'; known: out," in message


def test_a_misspelt_setting_is_recognised() -> None:
    with pytest.raises(InvalidInput, match=r"^unknown settings 'epoch' \('epochs' is meant\?\); known: out,"):
        load_config(Config, None, {"out": "x", "prompts": ["a"], "epoch": 3})


def test_messages_name_fields_as_the_caller_does() -> None:
    with pytest.raises(InvalidInput, match=r"^--epochs 0: "):
        load_config(Config, None, {"out": "x", "prompts": ["a"], "epochs": 0}, named=lambda field: f"--{field}")


def test_a_task_without_the_papers_settings_says_so() -> None:
    with pytest.raises(InvalidInput, match="the paper has no settings for this task"):
        load_config(TaskConfig, None, {"out": "x", "preset": "paper"})


def test_one_value_is_a_list_of_one(tmp_path: Path) -> None:
    assert load_config(Config, write(tmp_path, "{prompts: cat, shown: 0.5, out: x}"), {}).prompts == ("cat",)
    assert load_config(Config, write(tmp_path, "{prompts: cat, shown: 0.5, out: x}"), {}).shown == (0.5,)
    with pytest.raises(InvalidInput, match=r"^prompts {'cat': 1}: expected a list, such as \[1, 2\]$"):
        load_config(Config, write(tmp_path, "{prompts: {cat: 1}, out: x}"), {})


def test_identity_is_what_must_agree_on_resume() -> None:
    config = Config(out="x", prompts=("cat",), checkpoint_every=7, tracker="tensorboard", show=9, batch_size=2)
    identity = config.identity()
    assert identity.keys().isdisjoint({"out", "checkpoint_every", "tracker", "show", "batch_size"})
    assert identity["prompts"] == ["cat"]
    assert identity["mixed_precision"] == "no"
    json.dumps(identity)
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 3  # type: ignore[misc]
