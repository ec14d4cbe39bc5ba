"""Two processes of `accelerate launch` guide as one does."""

import json

import pytest
import torch

from adjointdpm.numerics import relative_error
from tests.support import guide_program
from tests.support.launched import joined, launch_both


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of the same program in one process and in two."""
    folder = tmp_path_factory.mktemp("team")
    launch_both(guide_program, folder)
    return folder


@pytest.mark.parametrize("case", list(guide_program.CASES))
def test_first_gradient_five_steps_and_images(folder, case):
    gradient = joined(folder, "1-0", f"gradient.{case}.")
    assert float(gradient.norm()) > 0
    assert relative_error(joined(folder, "2-0", f"gradient.{case}."), gradient) < 1e-6
    after = joined(folder, "1-0", f"after.{case}.")
    assert after.dtype == torch.float64
    assert relative_error(joined(folder, "2-0", f"after.{case}."), after) < 1e-8
    images = joined(folder, "1-0", f"images.{case}")
    for process in ("2-0", "2-1"):
        assert torch.allclose(joined(folder, process, f"images.{case}"), images, atol=1e-6)


def test_what_is_read_and_written_is_of_all_images(folder):
    one, main, other = (json.loads((folder / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert main == other
    for case, readings in one.items():
        assert len(readings) == 3
        for ours, theirs in zip(readings, main[case], strict=True):
            for term in ours:
                assert theirs[term] == pytest.approx(ours[term], abs=1e-3)
        names = {path.name for path in (folder / "2" / case).iterdir() if path.suffix in (".png", ".html")}
        assert {"guided.png", "report.html", "0002-red-apple-seed3.png"} <= names
