"""A tiny generator, a style image, and settings for a run in a fraction of a second per step."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adjointdpm.pipelines import differentiable
from adjointdpm.tasks.stylize.config import StylizeConfig
from tests.support.tiny_pipeline import tiny_pipeline

NETWORKS = Path(__file__).parent / "networks.py"


@pytest.fixture(scope="session")
def gen():
    return differentiable(tiny_pipeline())


@pytest.fixture(scope="session")
def style_file(tmp_path_factory):
    rng = np.random.default_rng(0)
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[::4] = (220, 40, 30)
    stripes[2::4] = (20, 60, 200)
    noise = rng.integers(0, 30, (32, 32, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("style") / "stripes.png"
    Image.fromarray(stripes + noise).save(path)
    return path


@pytest.fixture
def settings(style_file):
    def make(folder, **changes):
        base = {
            "out": folder / "run",
            "style": style_file,
            "prompts": ("red apple", "blue cat"),
            "seeds": (1, 2),
            "features": f"{NETWORKS}:optimised",
            "measure": f"{NETWORKS}:measuring",
            "epochs": 3,
            "pairs_per_step": 2,
            "lr": 1e-2,
            "steps": 2,
            "unseen_prompts": ("dog",),
            "unseen_seeds": (9,),
            "validate_every": 2,
            "validation_prompts": ("dog",),
            "checkpoint_every": 2,
        }
        return StylizeConfig(**base | changes)

    return make
