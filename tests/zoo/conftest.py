"""Tiny synthetic sprites, so that data, rules and training are tested without the emoji packages."""

from __future__ import annotations

import numpy as np
import pytest

from adjointdpm.zoo.compose import Sprites
from adjointdpm.zoo.lexicon import SIZES, STYLES
from adjointdpm.zoo.objects import OBJECTS


@pytest.fixture(scope="session")
def sprites() -> Sprites:
    """Each (object, style) is a disc with a bar, in colours of its own."""
    rng = np.random.default_rng(0)
    colors = rng.integers(30, 226, (len(OBJECTS), len(STYLES), 2, 3))
    arrays = {}
    for name, size in SIZES.items():
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        disc, bar = (x**2 + y**2 < (0.45 * size) ** 2), (abs(x) < size / 8)
        atlas = np.zeros((len(OBJECTS), len(STYLES), size, size, 4), np.uint8)
        atlas[..., disc, :3] = colors[:, :, 0, None, :]
        atlas[..., disc & bar, :3] = colors[:, :, 1, None, :]
        atlas[..., disc, 3] = 255
        arrays[name] = atlas
    return Sprites(arrays)
