"""`adjointdpm check` on a tiny model: the roads, the documents, the exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adjointdpm.cli.check_table import tables
from adjointdpm.cli.finding import Finding
from adjointdpm.gradients.check import Row
from adjointdpm.gradients.check_generator import ENGINES

KEYS = {"engine", "wrt", "rel_error", "cosine", "seconds", "peak_mb"}


@pytest.fixture
def check(cli: Callable[..., Any], tiny_folder: Path) -> Callable[..., Any]:
    def run(*arguments: object) -> Any:
        return cli("check", "--model", tiny_folder, "--device", "cpu", *arguments)

    return run


def test_both_roads_and_all_engines(check: Callable[..., Any]) -> None:
    found = check("--steps", 3, "--directions", 0, "--json").document
    rows = found["results"]
    assert all(row.keys() >= KEYS for row in rows)
    assert {(row["engine"], row["road"]) for row in rows} == {
        ("full", "pipeline"),
        ("exact", "pipeline"),
        *((engine, "ode") for engine in ENGINES),
    }
    assert {row["wrt"] for row in rows} == {"x_T", "cond", "guidance", "weights"}
    exact = [row["rel_error"] for row in rows if row["engine"] == "exact"]
    assert max(exact) <= 1e-5
    assert min(row["rel_error"] for row in rows if row["engine"] == "adjoint:paper") > 1e-5
    assert max(row["rel_error"] for row in rows if row["engine"] == "reversible") <= 1e-5
    assert {row["wrt"] for row in rows if row["engine"] == "truncated"} == {"cond", "guidance", "weights"}
    assert found["profiles"].keys() == set(ENGINES) - {"truncated", "one_step"}  # which pass no node
    assert list(found["profiles"]["adjoint"]) == ["2", "1"]  # the nodes above sigma = 0, from the image back
    assert found["round_trip"] >= 0
    assert found["ok"]
    assert found["steps"] == 3
    assert 0 <= found["saturated_share"] <= 1
    assert found["finite_differences"] == []


def test_finite_differences_on_the_ode_road_are_float64(check: Callable[..., Any]) -> None:
    ran = check("--steps", 2, "--directions", 1, "--wrt", "guidance", "--engines", "exact", "--json")
    rows = {row["road"]: row for row in ran.document["finite_differences"]}
    assert rows["ode"]["dtype"] == "float64"
    assert rows["ode"]["rel_error"] < 1e-4
    assert rows["pipeline"]["dtype"] == "float32"


def test_table_for_people(check: Callable[..., Any]) -> None:
    ran = check("--steps", 2, "--directions", 0, "--wrt", "x_T", "--engines", "exact, adjoint")
    assert ran.code == 0, ran.err
    for word in ("exact", "adjoint", "pipeline", "ode", "peak MB", "saturated_share", "approx."):
        assert word in ran.out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--engines", "exact,magic"], "magic"),
        (["--engines", ""], "--engines"),
        (["--wrt", "x_0"], "x_0"),
        (["--wrt", "guidance", "--guidance", "1", "--steps", 2], "guidance"),
        (["--steps", "0"], "--steps"),
        (["--solver", "magic", "--steps", 2], "magic"),
    ],
)
def test_bad_input(check: Callable[..., Any], arguments: list[object], word: str) -> None:
    ran = check(*arguments)
    assert ran.code == 2, ran.err
    assert word in ran.err


def test_a_gradient_that_is_wrong_fails(check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from adjointdpm.gradients import check as library
    from adjointdpm.gradients.check_report import GradientReport

    wrong = Row("exact", "x_T", 0.5, 0.1, 1.0, 2.0, tolerance=1e-5)
    report = GradientReport((wrong,), facts={"steps": 2, "saturated_share": 0.1})
    monkeypatch.setattr(library, "check_generator", lambda *a, **k: report)
    ran = check("--steps", 2)
    assert ran.code == 1
    assert "FAILS" in ran.out
    assert "exact differs" in ran.out


def test_a_table_fits_eighty_columns() -> None:
    from io import StringIO

    from rich.console import Console

    row = Row("adjoint:paper", "guidance", 1.234e-3, -0.123456, 12.3, 1234.5, exact=False)
    difference = Row("gradient", "guidance", 1.234e-3, 0.1, 1.0, 2.0, "finite difference", noise=1e-4)
    found = [Finding("pipeline", "float32", row), Finding("pipeline", "float64", difference)]
    out = StringIO()
    Console(file=out, width=80).print(*tables(found))
    assert "…" not in out.getvalue()
    assert "adjoint:paper" in out.getvalue()
