"""The Python of the README works when pasted."""

from pathlib import Path
from typing import Any

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"
LOOP = "x, cond = "


@pytest.fixture(scope="module")
def pasted() -> tuple[dict[str, Any], str]:
    """The names after the first half of the example, and the loop that is its second half."""
    code = README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    first, loop = code.split(LOOP)
    names: dict[str, Any] = {}
    exec(first, names)
    return names, LOOP + loop


def test_the_generator_gives_an_image_and_a_gradient(pasted: tuple[dict[str, Any], str]) -> None:
    names, _ = pasted
    assert names["out"].image.shape == (1, 3, 64, 64)
    assert bool(torch.isfinite(names["z"].grad).all()) and float(names["z"].grad.norm()) > 0


def test_the_loop_has_the_gradient_of_plain_backprop(pasted: tuple[dict[str, Any], str]) -> None:
    names, loop = pasted
    short = loop.replace("set_timesteps(20)", "set_timesteps(4)")
    gradients = []
    for source in (loop, short, short.replace("with ad.replay(pipe.unet, pipe.vae):", "if True:")):
        names["z"].grad = None
        exec(source, names)
        gradients.append(names["z"].grad)
    assert torch.equal(gradients[1], gradients[2]) and not torch.equal(gradients[0], gradients[1])
