"""Two processes of `accelerate launch` find for each sample what one finds."""

import json

import pytest

from tests.support.launched import launch_both
from tests.tasks.audit import program


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["classifier", "filter"])
def test_two_processes_equal_one(tmp_path, mode):
    launch_both(program, mode, tmp_path)
    alone, first, second = (
        json.loads((tmp_path / f"{mode}-{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")
    )
    assert alone["n"] == 5
    assert alone == first
    assert second["methods"] == first["methods"]
    assert (alone["rows"] is None) == (mode == "filter")
