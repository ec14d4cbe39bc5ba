"""Words, captions and tokens agree with one another."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import torch

from adjointdpm import zoo
from adjointdpm.zoo.build import TOKENS, build_tokenizer
from adjointdpm.zoo.captions import caption
from adjointdpm.zoo.draw import draw_scenes, held_out
from adjointdpm.zoo.lexicon import objects_in, spoken
from adjointdpm.zoo.objects import OBJECTS
from adjointdpm.zoo.prompts import evaluation_prompts, scenes_of, words_of
from adjointdpm.zoo.train_diffusion import Words


def test_enough_objects_of_enough_categories():
    vocabulary = zoo.vocabulary()
    assert len(vocabulary["objects"]) >= 160
    assert len(set(vocabulary["objects"].values())) >= 5
    assert vocabulary["styles"] == ["shaded", "flat", "3d"]


def test_every_word_is_one_token_and_comes_back():
    tokenizer = build_tokenizer()
    for word in zoo.vocabulary()["words"]:
        ids = tokenizer(word).input_ids
        assert len(ids) == 3 and ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == word


def test_case_and_punctuation_do_not_matter():
    tokenizer = build_tokenizer()
    assert tokenizer("Flat Cat, on BLUE dots.").input_ids == tokenizer("flat cat on blue dots").input_ids


def test_prompts_are_split_into_words_as_the_tokenizer_does():
    tokenizer = build_tokenizer()
    for prompt in ("Cat,", 'a "FLAT" cat (on red stripes); lit from top!', "cat's, cat-dog: dog?", " \t\n", "x,.y"):
        words = [tokenizer(word).input_ids[1:-1] for word in spoken(prompt)]
        assert tokenizer(prompt).input_ids[1:-1] == [number for ids in words for number in ids]
        assert all(len(ids) == 1 for ids in words)


def test_the_objects_of_a_prompt_in_its_order():
    names = list(OBJECTS)
    assert [names[k] for k in objects_in("A Dog, a CAT; a dog.")] == ["dog", "cat"]
    assert objects_in("blue stripes and cats") == []


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [("flat cat on red background", []), ("a Cat, xyzzy and plugh xyzzy!", ["xyzzy", "plugh"]), ("", [])],
)
def test_unknown_words(prompt, unknown):
    assert zoo.unknown_words(prompt) == unknown


def test_captions_fit_and_training_tokens_are_the_tokenizers():
    scenes = draw_scenes(300, torch.Generator().manual_seed(0))
    rng = random.Random(0)
    captions = [caption(scenes, i, rng) for i in range(300)]
    assert not [c for c in captions if zoo.unknown_words(c)]
    assert "" in captions
    expected = build_tokenizer()(captions, padding="max_length", max_length=TOKENS).input_ids
    assert all(len(row) == TOKENS for row in expected)
    assert torch.equal(Words()(captions), torch.tensor(expected))


def test_held_out_pairs_are_never_drawn():
    scenes = draw_scenes(20_000, torch.Generator().manual_seed(1))
    vocabulary = zoo.vocabulary()
    objects, styles, effects = (list(vocabulary[k]) for k in ("objects", "styles", "effects"))
    seen_styles = {(objects[o], styles[s]) for o, s in zip(scenes.object.tolist(), scenes.style.tolist(), strict=True)}
    seen_effects = {
        (objects[o], effects[e])
        for o, row in zip(scenes.object.tolist(), scenes.effect.tolist(), strict=True)
        for e in row
        if e >= 0
    }
    assert not seen_styles & {tuple(pair) for pair in held_out()["style"]}
    assert not seen_effects & {tuple(pair) for pair in held_out()["effect"]}


def test_evaluation_prompts_are_even_and_say_their_scene():
    rows = evaluation_prompts()["even"]
    assert len(rows) == 200
    assert len({row["object"] for row in rows}) == len(zoo.vocabulary()["objects"])
    banned = {tuple(pair) for pairs in held_out().values() for pair in pairs}
    for row in rows:
        assert words_of(row) == row["prompt"] and not zoo.unknown_words(row["prompt"])
        assert (row["object"], row["style"]) not in banned and (row["object"], row.get("effect")) not in banned
    scenes = scenes_of(rows)
    for i, row in enumerate(rows):  # the composer's own caption has the same words, and the size
        assert set(caption(scenes, i).split()) == {"large", *row["prompt"].split()}


def test_importing_the_zoo_loads_nothing_heavy():
    heavy = ("diffusers", "transformers", "safetensors", "PIL")
    code = f"import sys, adjointdpm.zoo; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
