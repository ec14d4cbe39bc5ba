"""Two processes of `accelerate launch` learn what one learns, whatever is optimised."""

import json

import pytest
import torch

from adjointdpm.numerics import relative_error
from adjointdpm.runs import read_jsonl
from tests.support import reward_program
from tests.support.launched import joined, launch_both


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of the same program in one process and in two."""
    folder = tmp_path_factory.mktemp("team")
    launch_both(reward_program, folder)
    return folder


@pytest.mark.parametrize("case", list(reward_program.CASES))
def test_first_gradient_and_five_steps(folder, case):
    gradient = joined(folder, "1-0", f"gradient.{case}.")
    assert float(gradient.norm()) > 0
    assert relative_error(joined(folder, "2-0", f"gradient.{case}."), gradient) < 1e-6
    after = joined(folder, "1-0", f"after.{case}.")
    assert after.dtype == torch.float64
    assert relative_error(joined(folder, "2-0", f"after.{case}."), after) < 1e-8


@pytest.mark.parametrize("case", list(reward_program.CASES))
def test_scores_and_curves_are_those_of_all_images(folder, case):
    one, both = (json.loads((folder / f"{name}.json").read_text())[case] for name in ("1-0", "2-0"))
    assert both["seen"]["reward"]["images"] == 3
    for where in ("seen", "unseen"):
        for name, change in (one[where] or {}).items():
            assert both[where][name]["after"] == pytest.approx(change["after"], rel=1e-5), (where, name)
    assert json.loads((folder / "2-1.json").read_text())[case]["seen"] == both["seen"]
    curves = [
        {row["step"]: row["rewards"] for row in read_jsonl(folder / size / case / "log.jsonl") if "rewards" in row}
        for size in ("1", "2")
    ]
    assert sorted(curves[0]) == sorted(curves[1]) == [1, 2, 3, 4, 5]
    for step, rewards in curves[0].items():
        assert curves[1][step] == pytest.approx(rewards, rel=1e-6)
