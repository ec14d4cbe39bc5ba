"""Writes `docs/embedded-model.md` from the evaluation's figures, so that page and JSON cannot differ."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from adjointdpm.zoo.lexicon import EFFECTS, STYLES
from adjointdpm.zoo.objects import OBJECTS

INTRO = """# The embedded model

<!-- Written by `python -m adjointdpm.zoo.evaluate`; edit `src/adjointdpm/zoo/page.py` instead. -->

`adjointdpm.zoo.emoji()` is a text-to-emoji latent diffusion model that ships with the package: {objects} objects of
{categories} categories in {styles} styles ({style_names}), 64 × 64 pixels, a plain diffusers
`StableDiffusionPipeline`. It exists so that every method of the library has something real to act on, offline and on
two cores. Beside it stand a classifier (`zoo.classifier()`, may be optimised against) and an independent judge
(`zoo.judge()`, only measures).

```python
import adjointdpm as ad

pipe = ad.zoo.emoji()
pipe("flat strawberry on yellow dots sepia", num_inference_steps=20, guidance_scale=2.5).images[0].save("strawberry.png")
print(ad.zoo.vocabulary()["effects"], ad.zoo.unknown_words("flat strawbery on yellow dots"))
```

A prompt reads `[small|large] [shaded|flat|3d] object [on colour background|stripes|dots|checks] [at side]
[lit from side] [effect]`; a gradient names two colours (`on red blue gradient`). Effects: {effects}. The word
`filtered` stands for nameless colour effects (duotones, split toning, channel mixes): the model can paint them, no word
says which.

![200 evaluation prompts]({folder}/samples.png)
*The 200 evaluation prompts in order, 20 guided steps, seeds 1000 to 1199, nothing picked.*

![objects]({folder}/objects.png)
*24 objects in the three styles.*

![effects]({folder}/effects.png)
*One noise a row: no effect, then each effect word, then light from the left, the right and the top.*

## Figures
"""

RECIPE = """
## How it was made

`python -m adjointdpm.zoo.train all` fetches three npm packages (Noto, Twemoji, Fluent 3D drawings), composes captioned
images on the fly, and trains autoencoder, denoiser with text encoder, and classifiers in resumable stages. Choices:

- **Processes, not threads.** Each core runs its own process; a step's micro-batches are taken from a common
  counter and only gradients are exchanged. With other programs on the machine a two-thread process had lost
  four fifths of its speed at the barriers inside each operation.
- **bfloat16 with plain attention.** Convolutions in bfloat16 are twice as fast on AVX-512 BF16; the fused attention
  kernel's backward in bfloat16 was so slow that it ate the gain, ordinary matrix products are not.
- **Sprites on the denoiser's grid.** Objects stand on a grid of 8 pixels, one cell of the 8 × 8 level, so that each
  drawing is one latent pattern.
- **Muon** for matrices and kernels, AdamW for the rest. After 16,000 images the denoiser's loss was 0.34 with it and
  0.57 with AdamW at 1e-3; the autoencoder, left at 31.5 dB by 47 minutes of AdamW on shared cores, was at 35.6 dB after 18 more with
  Muon, idle cores and a larger share of the squared error in its loss (not told apart).
- The shipped weights are those of three runs in a row: 173,000 images; the better autoencoder, and the denoiser trained on
  from where it was, on latents that had moved a little, to 478,000; and once more from there, the learning rate
  raised again and effects rare again, to {images}. A new run needs no such detour.
- **A continuous neighbourhood of `filtered`.** In half of the captions with that word, its embedding is shifted by a learnt
  linear function of the effect's colour map. The shift is not shipped; it is there so that embeddings near that word reach
  effects that no word names.
- Some (object, style) and (object, effect) pairs were never shown: `src/adjointdpm/zoo/held_out.json`.
- Pixel rules (`rules.py`) and evaluation prompts (`prompts.json`) were committed before the denoiser was trained.

The training log is `{folder}/training_log.jsonl`, all figures are in `{folder}/results.json`.

## Licences

Drawings: Noto Emoji by Google (Apache-2.0), Twemoji by Twitter and contributors (CC-BY 4.0,
https://creativecommons.org/licenses/by/4.0/), Fluent Emoji by Microsoft (MIT). The weights are Apache-2.0; images that
the model makes in the `flat` style derive from Twemoji and ask for its attribution. See the model card in
`src/adjointdpm/zoo/weights/emoji/README.md`.
"""


def _share(value: dict[str, Any]) -> str:
    return f"{100 * value['share']:.1f} % ({value['right']}/{value['n']}; {100 * value['low']:.1f}–{100 * value['high']:.1f})"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


def targets(results: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, target, measured, verdict), one row a target."""
    even, held = results["prompts"]["even"], results["prompts"]["held_out"]
    rows = []

    def at_least(what: str, value: dict[str, Any], target: float) -> None:
        rows.append((what, f"≥ {100 * target:.0f} %", _share(value), _verdict(value["share"] >= target)))

    at_least("object recognised by the judge", even["object"], 0.97)
    at_least("style recognised by the judge", even["style"], 0.97)
    at_least("object on held-out pairs", held["object"], 0.90)
    at_least("effect word obeyed", even["effect"], 0.90)
    at_least("background words obeyed", even["background"], 0.90)
    ratio = even["gradient_energy"]["ratio"]
    rows.append(
        ("gradient energy against real images", "within 10 %", f"{ratio:.3f} ×", _verdict(abs(ratio - 1) <= 0.1))
    )
    psnr = results["autoencoder"]["psnr"]
    rows.append(("autoencoder PSNR", "≥ 33 dB", f"{psnr:.1f} dB", _verdict(psnr >= 33)))
    seconds = results["speed"]["seconds_per_image"]
    rows.append(
        (
            f"seconds per image, 20 guided steps, {results['speed']['threads']} threads",
            "≤ 0.8 s",
            f"{seconds:.2f} s",
            _verdict(seconds <= 0.8),
        )
    )
    for name, value in results["classifiers"].items():
        low = min(value["objects"], value["styles"])
        rows.append(
            (
                f"{name} on held-out augmentations",
                "≥ 97 %",
                f"objects {100 * value['objects']:.1f} %, styles {100 * value['styles']:.1f} %",
                _verdict(low >= 0.97),
            )
        )
    for name, count in results["rules_on_real"].items():
        right, wrong = count["right"] / count["n"], count["false_positives"] / count["n"]
        rows.append(
            (
                f"{name} rule on composed images",
                "≥ 98 % right, ≤ 5 % false",
                f"{100 * right:.1f} %, {100 * wrong:.1f} % (n = {count['n']})",
                _verdict(right >= 0.98 and wrong <= 0.05),
            )
        )
    total = results["sizes_mb"]["total"]
    rows.append(("shipped size", "≤ 25 MB", f"{total:.1f} MB", _verdict(total <= 25)))
    return rows


def _images_seen(folder: Path) -> str:
    """How many images the denoiser was trained on, from the training log."""
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    return f"{max(line['images'] for line in lines if line['stage'] == 'diffusion'):,}"


def write_page(results: dict[str, Any], folder: Path, page: Path) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    link = os.path.relpath(folder, page.parent)
    even, held = results["prompts"]["even"], results["prompts"]["held_out"]
    lines = [
        INTRO.format(
            objects=len(OBJECTS),
            categories=len(set(OBJECTS.values())),
            styles=len(STYLES),
            style_names=", ".join(STYLES),
            effects=", ".join(f"`{e}`" for e in EFFECTS),
            folder=link,
        )  # fmt: skip
    ]
    lines += [
        "200 prompts drawn evenly over objects, styles, effects and backgrounds; shares with 95 % Wilson intervals.\n"
    ]
    lines += [
        "| what | target | measured | |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in targets(results)),
    ]
    lines += [
        "",
        f"The judge itself, on real composed images of the same 200 scenes: objects {_share(even['judge_on_real']['object'])}, styles {_share(even['judge_on_real']['style'])}.",
    ]
    lines += [
        f"Held-out pairs (n = {held['object']['n']}): style {_share(held['style'])}, effect {_share(held['effect'])}, background {_share(held['background'])}."
    ]
    if "frechet" in results:
        f = results["frechet"]
        lines += [
            f"Fréchet distance of {f['n']} images, EfficientNet-lite0 features in {f['dimensions']} dimensions: **{f['generated']:.3f}** "
            f"against composed images of the same scenes; two sets of real composed images are {f['real_floor']:.3f} apart."
        ]
    lines += ["", "Effects by word: " + ", ".join(f"{k} {v}" for k, v in even["effect_by_word"].items()) + ".", ""]
    lines += ["Backgrounds by kind: " + ", ".join(f"{k} {v}" for k, v in even["background_by_kind"].items()) + ".", ""]
    if even["failures"]:
        lines += [
            "Prompts whose object the judge did not recognise: " + "; ".join(f"“{p}”" for p in even["failures"]) + ".",
            "",
        ]
    notes = folder / "notes.md"  # what a person says about targets missed, and why
    lines += [notes.read_text()] if notes.exists() else []
    page.write_text("\n".join(lines) + RECIPE.format(folder=link, images=_images_seen(folder)))
