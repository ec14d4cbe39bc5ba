"""The embedded model: text to emoji at 64 x 64, small enough to ship and to differentiate on a laptop.

`emoji()` is a diffusers `StableDiffusionPipeline`; `classifier()` names objects and styles and may be
optimised against; `judge()` is an independent second one that only measures; `EFFECTS` are the
visual effects that the model was trained with, as differentiable functions.  Importing this
package loads nothing heavy: diffusers, transformers and the weights are loaded by the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adjointdpm.zoo.effects import EFFECTS
    from adjointdpm.zoo.load import classifier, emoji, emoji_folder, judge, unknown_words, vocabulary

__all__ = ["EFFECTS", "classifier", "emoji", "emoji_folder", "judge", "unknown_words", "vocabulary"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(".effects" if name == "EFFECTS" else ".load", __name__), name)
    globals()[name] = value
    return value
