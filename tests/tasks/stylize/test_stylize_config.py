"""Settings of a stylization: what follows from them, and what is refused."""

import pytest
from pydantic import ValidationError

from adjointdpm.errors import InvalidInput
from adjointdpm.tasks.settings import load_config
from adjointdpm.tasks.stylize.config import NOUNS, StylizeConfig
from adjointdpm.tasks.stylize.objective import turn


def make(**changes):
    return StylizeConfig(**{"out": "run", "style": "style.png"} | changes)


def test_pairs_are_all_prompts_with_all_noises_and_epochs_count_turns():
    config = make(prompts=("a", "b", "c"), seeds=(4, 5), epochs=4, pairs_per_step=4)
    assert config.pairs == (("a", 4), ("a", 5), ("b", 4), ("b", 5), ("c", 4), ("c", 5))
    assert config.optimiser_steps == 6
    turns = [i for step in range(1, 7) for i in turn(step, 6, 4)]
    assert [turns.count(i) for i in range(6)] == [4] * 6
    assert turn(3, 6, 4) == turn(3, 6, 4)
    assert make(prompts=("a",), seeds=(1,), epochs=5).together == 1


def test_the_papers_values_are_used_where_nothing_else_is_given():
    paper = make(preset="paper")
    assert len(paper.pairs) == 100
    assert (paper.weights, paper.epochs, paper.loop_settings().lr) == ("cross-attention", 8, 1e-4)
    assert paper.features == "vgg19"
    assert make(preset="paper", epochs=2).epochs == 2


def test_unseen_prompts_share_no_word_with_those_learnt_on():
    assert not set(make().unseen) & set(NOUNS)
    chosen = make(prompts=("a red fox", "robot"))
    assert not {word for prompt in chosen.unseen for word in prompt.split()} & {"a", "red", "fox", "robot"}
    assert len(chosen.unseen) == 4
    assert make(unseen_prompts=("x",)).unseen == ("x",)
    assert make(unseen_prompts=("x",)).validation == make().validation  # it may change on resume


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style_weight": 0}, "nothing to learn"),
        ({"style_weight": -1}, "greater than or equal to 0"),
        ({"content_weight": float("nan")}, "finite"),
        ({"style_scale": 0}, "greater than 0"),
        ({"style_layers": []}, "style_layers\n.*at least 1 item"),
        ({"content_layers": []}, "content_layers\n.*at least 1 item"),
        ({"prompts": ("cat", " ")}, "a prompt is empty"),
        ({"prompts": ()}, "at least 1"),
        ({"weights": "unet"}, "lora"),
        ({"features": "judge"}, "the network that is optimised"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"lr": 0}, "greater than 0"),
        ({"rank": 0}, "greater than or equal to 1"),
        ({"colour": "red"}, "colour"),
        ({"weights": "all", "rank": 4}, "`rank`: without effect with `weights`='all', only with 'lora'"),
        ({"preset": "paper", "alpha": 4, "init_seed": 1}, "`alpha`, `init_seed`: without effect .*'cross-attention'"),
        ({"content_weight": 0, "content_features": "vgg19"}, "`content_features`: without effect"),
        ({"content_weight": 0, "content_layers": (1,)}, "`content_layers`: without effect with a content_weight of 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValidationError, match=message):
        make(**changes)


def test_what_only_the_report_shows_may_change_on_resume():
    assert make().identity() == make(unseen_prompts=("x",), validate_every=3, show=2).identity()
    assert make().identity() != make(content_weight=2).identity()


def test_a_seed_that_is_wrong_is_one_message():
    with pytest.raises(InvalidInput) as found:
        load_config(StylizeConfig, None, {"out": "run", "style": "style.png", "seeds": (-1,)})
    assert str(found.value) == "seeds -1: Input should be greater than or equal to 0"


def test_settings_of_a_run_are_taken_again_though_some_have_no_effect():
    for changes in ({"weights": "all"}, {"preset": "paper"}, {"content_weight": 0}):
        assert load_config(StylizeConfig, None, make(**changes).model_dump(mode="json")) == make(**changes)
