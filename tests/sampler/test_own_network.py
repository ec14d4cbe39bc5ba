"""The example of one's own network runs, trains to something sensible, and its gradients are plain backprop's."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_network.py"


def test_example(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"]()
    out = capsys.readouterr().out
    radius = re.search(r"radius ([\d.]+)", out)
    errors = re.findall(r"norm ([\d.e+-]+), difference from plain backprop ([\d.e+-]+)", out)
    assert radius is not None
    assert 1.5 < float(radius[1]) < 2.5
    assert len(errors) == 2
    assert all(float(norm) > 0 and float(error) < 1e-6 for norm, error in errors)
