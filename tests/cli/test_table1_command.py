"""`adjointdpm table1` on a tiny model: the options, the documents, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adjointdpm.cli import table1 as command
from adjointdpm.cli.models import ModelChoice
from adjointdpm.errors import InvalidInput
from adjointdpm.tasks import Table1Config
from adjointdpm.tasks.table1.cells import Cell


def request(**changes: Any) -> command.Table1Request:
    nothing = dict.fromkeys(("noises", "images", "batch", "real", "prompts", "sprites"))
    return command.Table1Request(**{**nothing, "quick": False, "seed": 0, "out": Path("t"), **changes})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cells instead of 36, a rough reference."""
    full = command.settings

    def settings(*arguments: Any) -> Table1Config:
        return full(*arguments).model_copy(update={"nfes": (10,), "spacings": ("logsnr",), "reference_steps": 4})

    monkeypatch.setattr(command, "settings", settings)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("red apple\n\nblue fish\n")
    return file


def test_document_table_and_going_on(
    cli: Callable[..., Any], tiny_folder: Path, prompts: Path, tmp_path: Path, small: None
) -> None:
    given = ("table1", "--model", tiny_folder, "--device", "cpu", "--noises", 3, "--prompts", prompts, "--out", "run")
    ran = cli(*given, "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert document["command"] == "table1"
    assert len(document["cells"]) == 4
    assert all("errors" not in cell and cell["error"]["median"] > 0 for cell in document["cells"])
    assert {row["solver"] for row in document["at_best"]} == {"explicit_adams", "ab4"}
    assert isinstance(document["reproduced"], bool)
    table = json.loads((tmp_path / document["table"]).read_text())
    assert [cell["error"] for cell in table["cells"]] == [cell["error"] for cell in document["cells"]]
    log = (tmp_path / "run" / "log.jsonl").read_text()
    again = cli(*given)
    assert again.code == 0, again.err
    assert (tmp_path / "run" / "log.jsonl").read_text() == log  # nothing was solved again
    for word in ("eq. 6", "eq. 11", "torchdiffeq", "ours", "NFE 10", "report.html"):
        assert word in again.out
    other = cli(*given, "--seed", 4)
    assert other.code == 2
    assert "seed (was 0, now 4)" in other.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--noises", 1], "--noises"),
        (["--images", 1], "images=1"),
        (["--prompts", "absent.txt"], "--prompts"),
        (["--prompts", "empty.txt"], "no prompt"),
        (["--real", "."], "model of one's own"),
        (["--out", "empty.txt"], "is a file"),
    ],
)
def test_bad_input_is_named_before_a_model_is_loaded(
    cli: Callable[..., Any], arguments: list[object], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelChoice, "load", lambda self: pytest.fail("loaded"))
    (tmp_path / "empty.txt").write_text("\n")
    ran = cli("table1", *arguments)
    assert ran.code == 2, ran.err
    assert word in ran.err
    assert ran.err.count("error:") == 1


def test_defaults_of_the_embedded_model_of_ones_own_and_of_quick() -> None:
    embedded = command.settings(request(), ModelChoice())
    assert (embedded.noises, embedded.images, embedded.scenes, len(embedded.cells)) == (256, 2000, True, 36)
    quick = command.settings(request(quick=True), ModelChoice())
    assert (quick.noises, quick.images, len(quick.cells)) == (16, 0, 36)
    assert command.settings(request(quick=True, noises=4), ModelChoice()).noises == 4
    own = command.settings(request(), ModelChoice("folder"))
    assert (own.images, own.scenes) == (0, False)
    assert command.settings(request(real=Path("pictures")), ModelChoice("folder")).images == 2000
    with pytest.raises(InvalidInput, match="give real"):
        command.settings(request(images=10), ModelChoice("folder"))


def test_without_the_extra_it_says_what_to_install(
    cli: Callable[..., Any], tiny_folder: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torchdiffeq" else found(name, *a)
    )
    ran = cli("table1", "--model", tiny_folder, "--prompts", prompts, "--json")
    assert ran.code == 2
    assert "pip install 'adjointdpm[paper]'" in ran.document["error"]["message"]
    assert not (tmp_path / "table1").exists()


def test_names_of_cells_are_file_names() -> None:
    assert Cell("raw", "uniform", "ab4", 10).key == "raw-uniform-ab4-10"
