"""`adjointdpm plan` on a tiny model: the table, the document, what is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def plan(cli: Callable[..., Any], tiny_folder: Path) -> Callable[..., Any]:
    def run(*arguments: object) -> Any:
        return cli("plan", "--model", tiny_folder, "--device", "cpu", "--steps", 6, *arguments)

    return run


def test_document(plan: Callable[..., Any]) -> None:
    found = plan("--memory", "1GB", "--json").document
    rows = {row["engine"]: row for row in found["rows"]}
    assert rows["exact"]["nfe"] == 6
    assert rows["exact"]["recomputations"] > 0 == rows["full"]["recomputations"]
    assert rows["exact"]["peak_bytes"] < rows["full"]["peak_bytes"] <= found["memory"] == 10**9
    assert found["choice"] in rows


def test_table_of_the_ode_road_with_weights(plan: Callable[..., Any]) -> None:
    ran = plan("--solver", "heun", "--weights", "--branches", "sequential")
    assert ran.code == 0, ran.err
    for word in ("adjoint", "approximate", "run again", "Fastest exact gradient of 6 steps"):
        assert word in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--memory", "lots"], "memory="),
        (["--branches", "both"], "branches="),
        (["--spacing", "karras"], "belongs to the ODE road"),
        (["--steps", "0"], "--steps"),
    ],
)
def test_bad_options_are_refused_first(
    cli: Callable[..., Any], tmp_path: Path, arguments: list[str], words: str
) -> None:
    ran = cli("plan", "--model", tmp_path / "missing", *arguments)
    assert ran.code == 2
    assert words in ran.err


def test_too_little_memory_is_bad_input(plan: Callable[..., Any]) -> None:
    ran = plan("--memory", "10KB")
    assert ran.code == 2
    assert "smallest budget that works" in ran.err
