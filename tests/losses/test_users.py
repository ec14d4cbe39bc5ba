"""Functions of the user's: how many arguments they get, and errors of theirs as one message that names them."""

import sys

import pytest
import torch
from torch import nn

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.losses import check_loss, load_loss
from adjointdpm.losses.load import load_function
from adjointdpm.losses.rewards import check_reward, load_reward, read_term
from adjointdpm.losses.users import blamed, handed, trial

MINE = """
import sys

import numpy as np
import torch

def key(images):
    return {}["weight"]
def leaves_torch(images):
    return torch.from_numpy(np.tanh(images.numpy())).mean((1, 2, 3))
def divides(images):
    return images.mean((1, 2, 3)) * (1 / 0)
def ends(images):
    sys.exit(0)
def in_a_library(images):
    return torch.from_numpy(np.linalg.inv(np.zeros((2, 2))))
class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, gradient):
        raise LookupError("no derivative")
def bad_backward(images):
    return Backward.apply(images).mean((1, 2, 3))
def nothing():
    return 1
def needs_a_keyword(images, *, power):
    return images
class Network(torch.nn.Module):
    def forward(self, images):
        return images.mean((1, 2, 3))
network = Network()
def scaled(images, scale=2.0):
    return scale * images.mean((1, 2, 3))
"""


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("key", InvalidInput, r"key' fails at mine\.py:8 \(return \{\}\[\"weight\"\]\): KeyError: 'weight'"),
        ("leaves_torch", NotDifferentiable, r"leaves_torch': the step at mine\.py:10 .* leaves torch"),
        ("divides", InvalidInput, r"divides' fails at mine\.py:12 .*: ZeroDivisionError"),
        ("ends", InvalidInput, r"ends' fails at mine\.py:14 .*: SystemExit: 0"),
        ("in_a_library", InvalidInput, r"in_a_library' fails at mine\.py:16 .*: LinAlgError"),
        ("bad_backward", InvalidInput, r"the backward of .*bad_backward' fails at mine\.py:23 .*: LookupError"),
        ("nothing", InvalidInput, r"nothing' takes no arguments; expected \(images\) or \(images, prompts\)"),
        ("needs_a_keyword", InvalidInput, r"needs_a_keyword' fails: TypeError: .*'power'"),
    ],
)
def test_errors_of_a_reward_name_it_and_its_line(mine, name, error, message):
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(error, match=message):
        check_reward(load_reward(read_term(f"{mine}:{name}")), f"mine.py:{name}", images, ["a", "b"])


def test_a_loss_is_named_too(mine):
    image = torch.rand(1, 3, 4, 4)
    with pytest.raises(InvalidInput, match=r"the loss .*key' fails at mine\.py:8"):
        check_loss(load_loss(f"{mine}:key"), image, image)
    with pytest.raises(InvalidInput, match=r"nothing' takes no arguments; expected \(image\) or \(image, target\)"):
        load_loss(f"{mine}:nothing")


def test_modules_and_defaults_get_what_they_are_meant_to(mine):
    images = torch.rand(2, 3, 4, 4)
    for name, factor in (("network", 1), ("scaled", 2)):
        scores = load_reward(read_term(f"{mine}:{name}"))(images, ["a", "b"])
        assert torch.equal(scores, factor * images.mean((1, 2, 3)))


class Two(nn.Module):
    def forward(self, images, prompts):
        return images


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda images: 0, 1),
        (lambda x, y: 0, 2),
        (lambda x, prompts=None: 0, 2),
        (lambda x, texts=None: 0, 2),
        (lambda x, power=2: 0, 1),
        (lambda x, power=2, metadata=None: 0, 1),
        (lambda *all: 0, 7),
        (lambda x, **more: 0, 1),
        (Two(), 2),
        (min, 7),
    ],
)
def test_how_many_arguments_are_handed_over(function, count):
    assert handed(function, ("images", "prompts", "metadata"), "it", unknown=7) == count


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError(), torch.OutOfMemoryError("full"), NonFinite("NaN"), InvalidInput("no")]
)
def test_interrupts_lack_of_memory_and_our_own_errors_pass(error):
    with pytest.raises(type(error)) as caught, blamed("it"):
        raise error
    assert caught.value is error


def test_what_is_not_finite_before_the_run_is_bad_input():
    with pytest.raises(InvalidInput, match="NaN at image 3"), trial():
        raise NonFinite("NaN at image 3")


def test_a_file_with_a_dataclass_is_loaded_and_leaves_no_module_behind(tmp_path):
    file = tmp_path / "with_dataclass.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Settings:\n"
        "    power: int = 2\ndef loss(image):\n    return image.pow(Settings().power).mean()\n"
    )
    assert float(load_loss(f"{file}:loss")(torch.full((1, 3, 2, 2), 3.0), torch.zeros(1, 3, 2, 2))) == 9
    assert "with_dataclass" not in sys.modules


def test_a_file_called_as_a_library_does_not_stand_in_for_it(tmp_path):
    file = tmp_path / "colorsys.py"
    file.write_text("import colorsys\ndef hue(images):\n    return colorsys.rgb_to_hsv(1, 0, 0)\n")
    assert load_function(f"{file}:hue")(None) == (0.0, 1.0, 1.0)


def test_a_file_that_does_not_import_names_the_line(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("import math\nvalue = math.sqrt(-1)\n")
    with pytest.raises(InvalidInput, match=r"cannot import .*broken\.py' .* at broken\.py:2 \(value = .*ValueError"):
        load_loss(f"{file}:value")
