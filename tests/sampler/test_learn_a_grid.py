"""The example that learns a sampler's grid: gradients to the times make it better than every standard spacing."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "learn_a_grid.py"


def test_example(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"](rounds=60)
    found = dict(re.findall(r"(\w+) +error on unseen noise ([\d.]+)", capsys.readouterr().out))
    errors = {name: float(error) for name, error in found.items()}
    assert set(errors) == {"uniform", "karras", "logsnr", "learnt"}
    assert errors["learnt"] < 0.8 * min(errors[name] for name in ("uniform", "karras", "logsnr"))
