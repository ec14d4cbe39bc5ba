"""docs/table1.md is what the committed figures say, and what it says follows from the figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adjointdpm.tasks.table1.verdict import orderings, orderings_at_best
from studies.table1.__main__ import DATA, IMAGES, PAGE, take, write
from studies.table1.page import page


@pytest.fixture
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return found


def test_the_page_is_current(results: dict[str, Any]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(results), "run python -m studies.table1"
    for name in ("table1", *(f"table1_{nfe}" for nfe in results["config"]["nfes"])):
        assert (IMAGES / f"{name}.png").is_file()
        assert f"img/{name}.png" in page(results)


def test_the_committed_figures_are_whole_and_their_verdicts_follow_from_them(results: dict[str, Any]) -> None:
    cells = results["cells"]
    assert len({(c["form"], c["spacing"], c["solver"], c["nfe"]) for c in cells}) == len(cells) == 36
    assert all(len(c["errors"]) == results["config"]["noises"] for c in cells)
    assert results["orderings"] == orderings(cells)
    assert results["at_best"] == orderings_at_best(cells)
    assert results["reference"]["change"]["median"] < min(c["error"]["median"] for c in cells)


def test_the_page_says_where_eq_11_is_not_ahead(results: dict[str, Any]) -> None:
    for row in results["at_best"]:
        row["verdict"] = "ahead"
    assert "Eq. 11 is ahead of eq. 6 at every NFE" in page(results)
    results["at_best"][-1]["verdict"] = "behind"
    assert f"but for NFE {results['at_best'][-1]['nfe']}" in page(results)


def test_distances_get_a_section_of_their_own(results: dict[str, Any]) -> None:
    for cell in results["cells"]:
        cell["frechet"] = {"value": 33.0, "low": 32.0, "high": 34.0}
        cell["kid"] = {"value": 0.0123, "low": None, "high": None}
    text = page({**results, "real_floor": 12.0})
    for part in ("## Distance to real images", "33.00 (32.00–34.00)", "12.30", "are 12.0 apart"):
        assert part in text


def test_a_run_becomes_data_pictures_and_page(results: dict[str, Any], tmp_path: Path) -> None:
    run, images = tmp_path / "run", tmp_path / "img"
    run.mkdir()
    (run / "table1.json").write_text(json.dumps(results))
    for nfe in results["config"]["nfes"]:
        (run / f"strip-{nfe}.png").write_bytes(b"picture %d" % nfe)
    take(run, tmp_path / "results.json", images)
    write(tmp_path / "results.json", images, tmp_path / "table1.md")
    assert (tmp_path / "table1.md").read_text(encoding="utf-8") == page(results)
    assert (images / "table1_20.png").read_bytes() == b"picture 20"
    assert (images / "table1.png").read_bytes().startswith(b"\x89PNG")
