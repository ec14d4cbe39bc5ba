"""Which samples there are, and what their labels mean."""

import pytest
import torch

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.tasks import AuditConfig
from adjointdpm.tasks.audit.judge import check_named, embedded_judge, no_judge, wrapped_judge
from adjointdpm.tasks.audit.samples import CONTROL_PROMPTS, PROMPTS, Sample, make_samples, object_number, prompts_of
from adjointdpm.zoo.objects import OBJECTS

NAMES = ("cat", "red apple", "apple")


def samples(classes=5, names=(), objects=False, **changes):
    config = AuditConfig(**{"out": "x", "prompts": ("a red apple here", "cat"), "noises": 2} | changes)
    return make_samples(config, config.prompts, classes, names, objects)


def test_every_prompt_goes_with_its_own_noises():
    found = samples(labels=(1, 4), seed=10)
    assert [(s.index, s.prompt, s.seed, s.label) for s in found] == [
        (0, "a red apple here", 10, 1),
        (1, "a red apple here", 11, 1),
        (2, "cat", 12, 4),
        (3, "cat", 13, 4),
    ]


def test_labels_are_numbers_names_or_read_from_the_prompts():
    assert [s.label for s in samples(labels=("apple", "cat"), names=NAMES)] == [2, 2, 0, 0]
    assert [s.label for s in samples(labels=("3",))] == [3] * 4
    assert [s.label for s in samples(names=NAMES)] == [1, 1, 0, 0]  # the longest name counts
    assert [s.label for s in samples(labels=("Apple,", "Cat"), names=NAMES)] == [2, 2, 0, 0]
    said = ("A Red Apple, here", "(Cat)")
    assert [s.label for s in samples(prompts=said, names=NAMES)] == [1, 1, 0, 0]
    words = list(OBJECTS)
    for asked in ({"prompts": said}, {}):
        found = [s.label for s in samples(objects=True, **asked)]
        assert found == [words.index("apple")] * 2 + [words.index("cat")] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": (1, 5)}, "label 5 is out of range: expected a number from 0 to 4"),
        ({"labels": (-1,)}, "label -1 is out of range"),
        (
            {"labels": ("dog",), "names": NAMES},
            r"'dog' is no class: .*\(cat, red apple, apple\) or a number from 0 to 4$",
        ),
        ({"labels": ("²",)}, "label '²' is no class: expected a number from 0 to 4; no names are known here"),
        ({"labels": ("--5",)}, "label '--5' is no class"),
        ({"labels": ("9" * 5000,)}, "is no class"),
        ({"labels": ("CAT",), "names": ("Cat", "cat")}, "'CAT' is no class"),
        ({"labels": ("dog",)}, "no names are known"),
        ({}, "labels are missing"),
        ({"prompts": ("nothing",), "objects": True}, "names no object"),
        ({"labels": (1, 2), "target_class": 2}, "is the class of 'cat' itself"),
        ({"labels": (1, 2), "target_class": 9}, "target_class 9 is out of range"),
    ],
)
def test_labels_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InvalidInput, match=message):
        samples(**changes)


def test_targets():
    assert {s.target for s in samples(labels=(1,), target_class="0")} == {0}
    assert {s.target for s in samples(labels=(1,))} == {None}


def test_prompts_of_ones_own_model_must_be_given():
    with pytest.raises(InvalidInput, match="no prompts are given"):
        prompts_of(AuditConfig(out="x"), embedded=False)
    assert prompts_of(AuditConfig(out="x"), embedded=True) == PROMPTS["classifier"]


def test_the_embedded_models_prompts_name_objects_and_controls_are_others():
    for mode in ("classifier", "filter"):
        asked = {object_number(p) for p in PROMPTS[mode]}
        kept = {object_number(p) for p in CONTROL_PROMPTS[mode]}
        assert None not in asked | kept and not asked & kept
        assert len(asked) == len(PROMPTS[mode]) and len(kept) == len(CONTROL_PROMPTS[mode])
    assert all(OBJECTS[word] == "food" for prompt in PROMPTS["filter"] for word in prompt.split()[:1])
    assert all(OBJECTS[word] != "food" for prompt in CONTROL_PROMPTS["filter"] for word in prompt.split()[:1])


TWO = [Sample(0, "cat", 0, 1), Sample(1, "apple", 1, 0)]
IMAGES = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 0.8)])


def test_judges_may_be_scores_or_opinions_with_or_without_prompts():
    def scores(images):
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([mean, 1 - mean], dim=1)  # 1 for the dark image, 0 for the bright one

    assert wrapped_judge(scores, "judge", "classifier")(IMAGES, TWO) == [True, True]
    assert wrapped_judge(scores, "judge", "classifier")(IMAGES.flip(0), TWO) == [False, False]
    assert wrapped_judge(lambda x: x.mean(dim=(1, 2, 3)) > 0.5, "judge", "classifier")(IMAGES, TWO) == [False, True]
    assert wrapped_judge(lambda x: x.mean(dim=(1, 2, 3)) - 0.5, "judge", "filter")(IMAGES, TWO) == [False, True]
    assert wrapped_judge(lambda x, prompts: [p == "cat" for p in prompts], "j", "filter")(IMAGES, TWO) == [True, False]
    assert no_judge(IMAGES, TWO) == [True, True]


def test_a_judge_is_given_prompts_if_it_needs_or_names_them():
    def judge(images, prompts=None):
        return [prompt == "cat" for prompt in prompts]

    def tuned(images, sharpness=1.0):
        return images.mean(dim=(1, 2, 3)) > 0.5 * sharpness

    assert wrapped_judge(judge, "judge", "classifier")(IMAGES, TWO) == [True, False]
    assert wrapped_judge(tuned, "judge", "classifier")(IMAGES, TWO) == [False, True]


def test_a_judge_of_other_classes_is_refused_by_name():
    def scores(images):
        return torch.eye(3)[[1, 0]]

    assert wrapped_judge(scores, "mine", "classifier", 3)(IMAGES, TWO) == [True, True]
    with pytest.raises(InvalidInput, match="the judge mine has 3 outputs, the network under audit 5"):
        wrapped_judge(scores, "mine", "classifier", 5)(IMAGES, TWO)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda x: torch.tensor([True]), r"shape \(1,\) for 2 images"),
        (lambda x: "yes", "returned str"),
        (lambda x: x.mean(dim=(1, 2, 3)), "one score an image"),
    ],
)
def test_judges_that_do_not_answer_are_refused(judge, message):
    with pytest.raises(InvalidInput, match=message):
        wrapped_judge(judge, "judge", "classifier")(IMAGES, TWO)


def test_the_embedded_judge_asks_for_the_object_or_its_category():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    from adjointdpm import zoo

    seen = zoo.judge()(images).objects.argmax(dim=1).tolist()
    words = list(OBJECTS)
    named = [Sample(i, f"flat {words[s]}", i) for i, s in enumerate(seen)]
    assert embedded_judge("classifier")(images, named) == [True, True]
    wrong = [Sample(i, words[(s + 1) % len(words)], i) for i, s in enumerate(seen)]
    assert embedded_judge("classifier")(images, wrong) == [False, False]
    same = [OBJECTS[words[(s + 1) % len(words)]] == OBJECTS[words[s]] for s in seen]
    assert embedded_judge("filter")(images, wrong) == same
    assert embedded_judge("filter")(images, [Sample(0, "nothing known", 0)] * 2) == [False, False]
    assert embedded_judge("classifier")(images[:1], [Sample(0, f"{words[seen[0]].title()},", 0)]) == [True]


def test_prompts_that_name_nothing_to_judge_are_said_and_not_counted_as_failed():
    named, nameless = Sample(0, "Cat,", 0), Sample(1, "blue stripes", 1)
    check_named([named], "classifier")
    with pytest.warns(InputWarning, match="judge to see and are left out: 'blue stripes'; name objects"):
        check_named([named, nameless], "classifier")
    with pytest.warns(InputWarning, match="judge to see and are left out: number 2; name objects"):
        check_named([named, nameless], "filter")
    with pytest.raises(InvalidInput, match="no prompt names an object for the embedded judge"):
        check_named([nameless], "classifier")
