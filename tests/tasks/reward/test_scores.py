"""Intervals, the verdict on reward hacking, and rewards of the embedded model's own networks."""

import math

import pytest
import torch
from scipy.stats import t

from adjointdpm import zoo
from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.losses.rewards import read_term
from adjointdpm.tasks import RewardConfig
from adjointdpm.tasks.reward.recognition import Recognised, named_in
from adjointdpm.tasks.reward.scores import Change, Rewards, mean_interval, verdict
from adjointdpm.zoo.lexicon import STYLES
from adjointdpm.zoo.objects import OBJECTS


@pytest.mark.parametrize("n", [2, 3, 5, 31, 32, 200])
def test_the_interval_is_students(n):
    values = torch.randn(n, generator=torch.Generator().manual_seed(n)).tolist()
    mean, low, high = mean_interval(values)
    spread = torch.tensor(values, dtype=torch.float64).std().item()
    expected = t.ppf(0.975, n - 1) * spread / math.sqrt(n)
    assert mean == pytest.approx(sum(values) / n)
    assert (high - mean, mean - low) == pytest.approx((expected, expected), rel=0.045 if n == 32 else 2e-2)


def test_one_value_has_no_interval():
    assert mean_interval([3.0]) == (3.0, -math.inf, math.inf)
    assert Change("a", [1.0], [2.0]).as_dict()["interval"] is None


def change(*differences):
    return Change("x", [1.0] * len(differences), [1.0 + d for d in differences])


def test_verdicts():
    rose, fell, either = change(0.5, 0.6, 0.4), change(-0.5, -0.6, -0.4), change(0.5, -0.4, 0.1)
    assert verdict(rose, None) == "no held-out reward"
    assert verdict(rose, fell) == "hacked"
    assert verdict(rose, rose) == "confirmed"
    assert verdict(rose, either) == "undecided"
    assert verdict(fell, fell) == "undecided"  # nothing was gained, so nothing was hacked
    assert verdict(change(1.0), change(-0.1)) == "undecided"  # one image tells nothing from chance
    assert verdict(change(1.0), change(0.1)) == "undecided"


def test_what_a_prompt_names():
    assert named_in("small 3d whale on blue dots") == (list(OBJECTS).index("whale"), STYLES.index("3d"))
    for text in ("cat", "A Cat, here", "CAT!"):
        assert named_in(text) == (list(OBJECTS).index("cat"), None)
    for text in ("", "on blue background", "cat dog", "3d flat cat"):
        with pytest.raises(InvalidInput, match="one object and at most one style"):
            named_in(text)


@pytest.mark.parametrize("name", ["classifier", "judge"])
def test_log_probabilities_of_the_embedded_networks(name):
    network = zoo.classifier() if name == "classifier" else zoo.judge()
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    prompts = ["cat", "flat whale on white background", "3d cat"]
    drawings = torch.softmax(network(images).drawings.flatten(1), dim=1).unflatten(1, (len(OBJECTS), len(STYLES)))
    cat, whale = (list(OBJECTS).index(word) for word in ("cat", "whale"))
    expected = torch.stack([drawings[0, cat].sum(), drawings[1, whale, STYLES.index("flat")],
                            drawings[2, cat, STYLES.index("3d")]])  # fmt: skip
    assert torch.allclose(Recognised(network)(images, prompts).exp(), expected, rtol=1e-4)
    fixed = Recognised(network, "flat whale")(images, ["nothing"] * 3)
    assert torch.allclose(fixed.exp(), drawings[:, whale, STYLES.index("flat")], rtol=1e-4)
    smooth = torch.nn.functional.interpolate(images[..., ::8, ::8], (128, 128), mode="bilinear")
    smaller = torch.nn.functional.interpolate(smooth, (64, 64), mode="bilinear", antialias=True)
    cats = Recognised(network, "cat")
    assert torch.allclose(cats(smooth, ["a"] * 3), cats(smaller, ["a"] * 3), rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "embedded", "expected"),
    [
        ({}, True, "judge"),
        ({}, False, None),
        ({"held_out": "none"}, True, None),
        ({"held_out": "sharpness"}, True, "sharpness"),
        ({"prompts": ("a castle in the clouds and a cat",)}, True, None),
        ({"prompts": ("small flat",), "rewards": ("classifier=flat whale",)}, True, "judge=flat whale"),
        ({"rewards": ("judge",)}, True, None),
        ({"prompts": ("Cat,",)}, True, "judge"),
    ],
)
@pytest.mark.filterwarnings("ignore:no held-out reward")
def test_the_judge_watches_where_it_can(tmp_path, changes, embedded, expected):
    watched = Rewards.of(RewardConfig(out=tmp_path, **changes), embedded).watched
    assert (None if watched is None else watched.reward) == expected


def test_a_judge_that_cannot_watch_says_why(tmp_path):
    with pytest.warns(InputWarning, match="no held-out reward: the judge cannot watch, as 'blue dots' names 0 objects"):
        Rewards.of(RewardConfig(out=tmp_path, prompts=("cat", "blue dots")), embedded=True)


def test_every_prompt_and_size_of_batch_that_is_to_come_is_tried_once():
    calls = []

    def reward(images, prompts):
        calls.append(list(prompts))
        return images.mean((1, 2, 3))

    rewards = Rewards([read_term("a")], [reward], None, None)
    later = [["cat", "dog"], ["dog"], ["owl", "dog"], ["owl"], ["dog", "dog"]]
    rewards.try_out(torch.rand(2, 3, 8, 8), ["cat", "dog"], later)
    assert calls == [["cat", "dog"], ["dog"], ["owl", "dog"]]
