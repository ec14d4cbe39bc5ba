"""Two processes of `accelerate launch` compute what one computes."""

import json
from pathlib import Path

import pytest
import torch

from adjointdpm.numerics import relative_error
from adjointdpm.runs import RunFolder, load_tensors, read_jsonl
from adjointdpm.tasks.team import Team, _buckets
from tests.support import team_program
from tests.support.launched import launch_both

pytestmark = pytest.mark.timeout(600)  # three processes, each of which imports everything


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the same program in one process and in two."""
    folder = tmp_path_factory.mktemp("team")
    launch_both(team_program, folder)
    return folder


def tensors(folder: Path, name: str, part: str) -> dict[str, torch.Tensor]:
    found, _ = load_tensors(folder / f"{name}.safetensors")
    return {key.removeprefix(part): value for key, value in found.items() if key.startswith(part)}


def joined(found: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.double().reshape(-1) for _, value in sorted(found.items())])


def error(folder: Path, part: str) -> float:
    """Relative error of two processes against one, over all numbers of all tensors of a part."""
    one, two = tensors(folder, "1-0", part), tensors(folder, "2-0", part)
    assert one.keys() == two.keys()
    assert one
    return relative_error(joined(two), joined(one))


@pytest.mark.parametrize("which", ["cross-attention", "lora"])
def test_the_gradient_of_the_first_step(folder: Path, which: str) -> None:
    gradient = joined(tensors(folder, "1-0", f"{which}.gradient."))
    assert gradient.norm() > 0
    assert error(folder, f"{which}.gradient.") < 1e-6


def test_the_weights_after_five_steps_in_float64(folder: Path) -> None:
    started = joined(tensors(folder, "1-0", "lora.gradient.")).norm()
    assert started > 0
    assert error(folder, "lora.weight.") < 1e-8
    assert error(folder, "lora.losses") < 1e-12
    losses = tensors(folder, "2-0", "lora.losses")[""]
    assert len(losses) == team_program.STEPS
    assert losses[-1] < losses[0]


def test_both_processes_have_the_same_bits(folder: Path) -> None:
    for part in ("cross-attention.weight.", "lora.weight."):
        main, other = tensors(folder, "2-0", part), tensors(folder, "2-1", part)
        assert all(torch.equal(main[name], other[name]) for name in main)


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_that_was_cut_goes_on_bit_for_bit(folder: Path, size: int) -> None:
    facts = json.loads((folder / f"{size}-0.json").read_text())
    assert facts["cut"] == "killed"
    whole, resumed = (tensors(folder, f"{size}-0", part) for part in ("lora.weight.", "resumed.weight."))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert [row["step"] for row in read_jsonl(folder / f"cut-{size}" / "log.jsonl")] == [1, 2, 3, 4, 5]


def test_an_inversion(folder: Path) -> None:
    assert error(folder, "invert") < 1e-4
    for rank in (0, 1):
        facts = json.loads((folder / f"2-{rank}.json").read_text())
        assert facts["invert"] == ["embedding.safetensors", "report.html"]
    names = [sorted(path.name for path in (folder / f"invert-{size}").iterdir()) for size in (1, 2)]
    assert names[0] == names[1]
    losses = [[row["loss"] for row in read_jsonl(folder / f"invert-{size}" / "log.jsonl")] for size in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_is_exchanged(folder: Path) -> None:
    main, other = (json.loads((folder / f"2-{rank}.json").read_text()) for rank in (0, 1))
    items = [f"item {i}" for i in range(7)]
    assert main["mine"] == items[::2]
    assert other["mine"] == items[1::2]
    for seen in (main, other):
        assert seen["gathered"] == [item.upper() for item in items]
        assert seen["total"] == pytest.approx(0.3)
        assert seen["agree"] == [False, True, True]
        assert seen["gradients"] == [[3.0] * 3, [0.0, 1.0, 2.0], None]
    assert main["not finite"].startswith("another process of this run failed; its message says why (step 1 of 2)")
    assert other["not finite"].startswith("the loss is nan (step 1 of 2)")


def test_one_process_alone(folder: Path) -> None:
    alone = json.loads((folder / "1-0.json").read_text())
    assert alone["mine"] == [f"item {i}" for i in range(7)]
    assert alone["gathered"] == [f"ITEM {i}" for i in range(7)]
    assert alone["agree"] == [False, True, True]
    assert alone["total"] == 0.1
    assert Team.join().size == 1
    assert Team().main


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    """Of a team whose second process is played here: the folder as the first one left it."""

    class Second(Team):
        def agree(self, flag: bool) -> bool:
            return flag

    with RunFolder(tmp_path / "run", "task", {"a": 1}) as first:
        first.begin()
        first.finish("finished", {"x": 1})
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with RunFolder(tmp_path / "run", "task", {"a": 1}, team=Second(1, 2)) as second:
        second.begin()
        second.log.write({"step": 1})
        second.finish("failed", {"x": 2})
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_gradients_are_sent_in_parts_of_one_dtype() -> None:
    sizes = [(1 << 23, torch.float32), (1 << 23, torch.float32), (1, torch.float32), (1, torch.float64)]
    found = _buckets([torch.empty(n, dtype=dtype, device="meta") for n, dtype in sizes])
    assert [len(part) for part in found] == [2, 1, 1]
