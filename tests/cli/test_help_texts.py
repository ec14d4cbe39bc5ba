"""docs/cli holds the help of every command as it is; `python -m adjointdpm.cli.helptexts` writes it anew."""

import re
from pathlib import Path

import pytest

from adjointdpm.cli.app import app
from adjointdpm.cli.helptexts import FOLDER, help_texts, plain

TEXTS = help_texts()


def words(text: str) -> str:
    """Without line breaks and rules, which depend on the version of rich."""
    return re.sub(r"[\s─│╭╮╰╯]+", " ", text)


@pytest.mark.parametrize("stem", sorted(TEXTS))
def test_docs_are_current(stem: str) -> None:
    file = FOLDER / f"{stem}.txt"
    assert file.is_file(), "run python -m adjointdpm.cli.helptexts"
    assert words(file.read_text()) == words(TEXTS[stem]), "run python -m adjointdpm.cli.helptexts"


def test_no_text_of_a_command_that_is_gone() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == set(TEXTS)


def test_every_command_has_a_text_and_every_option_an_explanation() -> None:
    assert len(TEXTS) == len(app.registered_commands) + 1
    for stem, text in TEXTS.items():
        assert "Exit codes" in text, stem
        for line in re.findall(r"^[* ]*--[a-z-]+.*$", text, re.MULTILINE):
            assert len(line.split()) > 2, f"{stem}: no explanation: {line}"


def test_a_changed_option_changes_the_text(tmp_path: Path) -> None:
    text = TEXTS["adjointdpm-generate"]
    assert "--guidance" in text
    assert words(text) != words(text.replace("3.0", "5.0"))
    assert plain("╭─ Options ─╮\n│ --x  y   │\n╰──────────╯\n") == "Options:\n--x  y\n"
