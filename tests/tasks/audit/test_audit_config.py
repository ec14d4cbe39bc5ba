"""What an audit is asked is validated before any work."""

import math

import pytest
from pydantic import ValidationError

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks import AuditConfig
from adjointdpm.tasks.settings import load_config

FILTER = {"mode": "filter", "owner": "the zoo", "purpose": "a test"}


def config(**changes):
    return AuditConfig(**{"out": "x"} | changes)


@pytest.mark.parametrize("tau", [0, -0.1, math.nan, math.inf])
def test_a_bound_must_be_positive_and_finite(tau):
    for taus in ((tau,), (0.1, tau)):
        with pytest.raises(InvalidInput, match=rf"^taus {taus[-1]}: Input should be [a-z 0]+$"):
            load_config(AuditConfig, None, {"out": "x", "taus": taus})


def test_bounds_are_put_in_order():
    assert config(taus=(0.4, 0.1, 0.4, 0.2)).taus == (0.1, 0.2, 0.4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taus": ()}, "at least 1"),
        ({"labels": (1, 2, 3), "prompts": ("a", "b")}, "3 labels for 2 prompts"),
        ({"norm": "shell", "taus": (0.5, 2.5)}, "at most 2 radii"),
        ({"generator_options": {"a": 1}}, "`generator_options` are for `generator`"),
        ({"loss": "cosine"}, "for filter mode"),
        ({"mode": "filter"}, "`owner` and `purpose`"),
        ({"mode": "filter", "owner": "me", "purpose": " "}, "needs `purpose`"),
        (FILTER | {"images": True}, "writes rates only"),
        (FILTER | {"tracker": "wandb"}, "records the command line"),
        (FILTER | {"transfer": ("a:b",), "outputs": "logits"}, "`transfer`, `outputs`: without effect in filter mode"),
        (FILTER | {"target_class": 0}, "`target_class`: without effect in filter mode"),
        (FILTER | {"preprocessing": ("a:b",)}, "`preprocessing`: without effect in filter mode"),
        ({"harden_lr": 1e-3, "held_out_noises": 3}, "`harden_lr`, `held_out_noises`: without effect without `harden`"),
        (FILTER | {"control_prompts": ("fox",)}, "`control_prompts`: without effect without `harden`"),
        (FILTER | {"loss": "margin"}, "for classifier mode"),
        ({"iterations": 0}, "greater than or equal to 1"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    "name", ["https://filter.example/check", "HTTP://x:y", "//host/share", "www.example.org", "127.0.0.1:8000"]
)
@pytest.mark.parametrize("field", ["network", "judge", "generator", "transfer", "preprocessing"])
def test_addresses_are_refused(name, field):
    with pytest.raises(ValidationError, match="never of a hosted service"):
        config(**{field: (name,) if field in ("transfer", "preprocessing") else name})


def test_local_names_are_taken():
    found = config(network="my.module:net", judge="judge.py:judge", transfer=("models/resnet",))
    assert (found.network, found.judge, found.transfer) == ("my.module:net", "judge.py:judge", ("models/resnet",))


def test_the_papers_settings_depend_on_the_mode():
    classifier, filtered = config(preset="paper"), config(preset="paper", **FILTER)
    assert (classifier.taus, classifier.loss_name, classifier.norm) == ((0.8,), "cross_entropy", "linf")
    assert (filtered.taus, filtered.loss_name) == ((0.9,), "cosine")
    assert config(preset="paper", taus=(0.3,)).taus == (0.3,)


def test_filter_mode_does_not_write_prompts_down():
    words = {"prompts": ("red apple", "pizza"), "control_prompts": ("fox",), "negative_prompt": "blurred"}
    found = config(**words, harden=True, **FILTER)
    text = str(found.identity())
    assert not any(word in text for word in ("apple", "pizza", "fox", "blurred"))
    assert found.identity()["prompts"]["count"] == 2
    assert found.identity() != config(prompts=("red apple", "cake"), **FILTER).identity()
    assert config(prompts=("red apple",)).identity()["prompts"] == ["red apple"]


def test_settings_are_shown_without_the_words_of_filter_mode():
    words = {"prompts": ("red apple",), "control_prompts": ("fox",), "negative_prompt": "blurred", "harden": True}
    shown = config(**words, **FILTER).shown()
    assert (shown.prompts, shown.control_prompts, shown.negative_prompt) == (("PROMPT...",), ("TEXT...",), "TEXT")
    assert config(**FILTER).shown() == config(**FILTER)
    assert config(**words).shown() == config(**words)


def test_a_record_without_the_prompts_asks_for_them():
    recorded = config(prompts=("red apple",), **FILTER).identity()
    with pytest.raises(InvalidInput) as found:
        load_config(AuditConfig, None, {"out": "x", **recorded})
    assert str(found.value) == "prompts: filter mode does not write words down; give them again to resume"


def test_settings_of_a_run_are_taken_again_though_some_have_no_effect():
    for changes in ({}, {"preset": "paper"}, FILTER):
        recorded = config(**changes).model_dump(mode="json")
        assert load_config(AuditConfig, None, recorded) == config(**changes)
