"""The recipe for AlignProp's users, under `accelerate launch` with two processes."""

from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

from tests.support.launched import launch

RECIPE = Path(__file__).parents[3] / "examples" / "align_lora.py"


def test_it_runs_under_accelerate_launch(tmp_path):
    ran = launch(RECIPE, "--tiny", "--out", tmp_path / "lora", cwd=tmp_path)
    assert ran.stdout.count("4/4") == 1  # one process speaks
    assert "on prompts that it never saw" in ran.stdout
    weights = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert any(name.endswith("lora.up.weight") and float(w.abs().max()) > 0 for name, w in weights.items())
    with Image.open(tmp_path / "lora" / "fox.png") as image:
        assert image.size == (16, 16)
    assert (tmp_path / "lora" / "report.html").is_file()
