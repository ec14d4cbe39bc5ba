"""Loads what the package ships: the pipeline, the classifier, the judge, the vocabulary.

Everything comes from the package's own `weights/` folder, as safetensors; no network, no pickle.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from adjointdpm.zoo.classifiers import Classifier, Judge

WEIGHTS = Path(__file__).parent / "weights"


def emoji_folder() -> Path:
    """The shipped diffusers folder; it loads in plain `StableDiffusionPipeline.from_pretrained` too."""
    return WEIGHTS / "emoji"


def emoji() -> StableDiffusionPipeline:
    """The text-to-emoji pipeline: float32, evaluation mode, every weight frozen, no progress bar.

    Prompts read ``[small|large] [shaded|flat|3d] object [on colour background|stripes|dots|checks]
    [at side] [lit from side] [effect]``; see `vocabulary`.  Guidance 4 and 20 steps are good defaults.
    """
    with _quiet():
        import torch
        from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(
            emoji_folder(), local_files_only=True, safety_checker=None, requires_safety_checker=False
        )
        pipe.to(torch.float32)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' notices away: on parts that this model does not have, and bars for a second's load."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries: tuple[Any, ...] = (of_diffusers, of_transformers)
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in libraries]
    for log in libraries:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity, bar in before:
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()


def classifier() -> Classifier:
    """Names objects and styles of images (B, 3, 64, 64) in [0, 1]; may be optimised against."""
    from adjointdpm.zoo.classifiers import Classifier

    network: Classifier = _network(Classifier(), "classifier")
    return network


def judge() -> Judge:
    """A second network of another architecture and seed, never optimised against: it measures."""
    from adjointdpm.zoo.classifiers import Judge

    network: Judge = _network(Judge(), "judge")
    return network


def _network(network: Any, name: str) -> Any:
    from safetensors.torch import load_file

    state = {
        k: v.float() if v.is_floating_point() else v for k, v in load_file(WEIGHTS / f"{name}.safetensors").items()
    }
    network.load_state_dict(state)
    return network.requires_grad_(False).eval()


def vocabulary() -> dict[str, Any]:
    """What captions can say.

    ``objects`` maps each object to its category; ``styles``, ``sizes``, ``positions``, ``lights``,
    ``colors``, ``patterns``, ``effects`` list words; ``held_out`` lists the (object, style) and
    (object, effect) pairs that training never showed; ``words`` is every word the tokenizer knows.
    """
    from adjointdpm.zoo import lexicon as v
    from adjointdpm.zoo.draw import held_out
    from adjointdpm.zoo.objects import OBJECTS

    return {
        "objects": dict(OBJECTS),
        "styles": list(v.STYLES),
        "sizes": list(v.SIZES),
        "positions": list(v.POSITIONS),
        "lights": list(v.LIGHTS),
        "colors": list(v.COLORS),
        "patterns": list(v.PATTERNS),
        "backgrounds": ["background", "gradient", *v.PATTERNS],
        "effects": list(v.EFFECTS),
        "nameless": v.NAMELESS,
        "held_out": held_out(),
        "words": list(v.words()),
    }


def unknown_words(prompt: str) -> list[str]:
    """The prompt's words that the tokenizer does not know, in order, each once."""
    from adjointdpm.zoo.lexicon import END, START, UNKNOWN, spoken, words

    known = {*words(), START, END, UNKNOWN}
    return list(dict.fromkeys(word for word in spoken(prompt) if word not in known))
