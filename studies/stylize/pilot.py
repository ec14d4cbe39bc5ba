"""Chooses the settings of all methods, on two styles and on objects that the study itself does not use.

python -m studies.stylize.pilot      # goes on where it was stopped; writes studies/stylize/pilot.json

`design.py` holds what was best for each method: for `stylize` the largest drop of the style distance in the network of
the target among settings that keep at least 80 % of the objects, for the rivals the most images that are stylized and
still recognised.  The rivals' rates are tried on one style, with a quarter of the work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import adjointdpm as ad
from adjointdpm import zoo
from adjointdpm.losses.extractors import load_extractor
from adjointdpm.losses.style import StyleTarget
from adjointdpm.runs import atomic_write
from adjointdpm.tasks.stylize import stylize_model
from adjointdpm.tasks.stylize.style_image import open_style, style_tensor
from studies.stylize.design import ALSO_BY, FEATURES, MEASURED_BY, Plan, Style
from studies.stylize.measure import figures
from studies.stylize.runner import (
    BRANCHES,
    Study,
    dreambooth,
    measured,
    optimise_pixels,
    paint,
    paint_tuned,
    task_of,
    textual_inversion,
)

STYLES = (Style("pilot_strokes", "pilot: brush strokes"), Style("pilot_weave", "pilot: a woven texture"))
PROMPTS = (
    "dog on white background",
    "apple on blue background",
    "tree on gray background",
    "pizza on yellow background",
    "airplane on pink background",
    "crown on green background",
    "ghost on purple background",
    "duck on orange stripes",
)
SEEDS = (201, 202)
FILE = Path(__file__).parent / "pilot.json"

Settings = dict[str, Any]
DEEP: Settings = {"content_features": "classifier", "content_layers": (-1,)}
SHALLOW: Settings = {"content_features": "classifier"}
#: Of `stylize`, on the first style, and what was then tried on the second.
OURS: tuple[Settings, ...] = (
    {"epochs": 6, "weights": "all", "lr": 3e-4, "content_weight": 0.1, **SHALLOW},
    {"epochs": 6, "weights": "all", "lr": 3e-4, "content_weight": 0.3, **SHALLOW},
    {"epochs": 6, "weights": "lora", "lr": 4e-3, "content_weight": 0.3, **SHALLOW},
    {"epochs": 8, "weights": "all", "lr": 2e-4, "content_weight": 1.0, **SHALLOW},
    {"epochs": 8, "weights": "lora", "lr": 4e-3, "content_weight": 0.3, **DEEP},
    {"epochs": 8, "weights": "all", "lr": 3e-4, "content_weight": 1.0, **DEEP},
    {"epochs": 12, "weights": "all", "lr": 1e-3, "content_weight": 2.0, **DEEP},
    {"epochs": 16, "weights": "all", "lr": 5e-4, "content_weight": 3.0, **DEEP},
    {"epochs": 14, "weights": "all", "lr": 8e-4, "content_weight": 3.5, **DEEP},
    {"epochs": 12, "weights": "all", "lr": 5e-4, "content_weight": 4.0, **DEEP, "pairs_per_step": 2},
    {"epochs": 10, "weights": "all", "lr": 6e-4, "content_weight": 5.0, **DEEP},
    {"epochs": 10, "weights": "lora", "lr": 1e-2, "content_weight": 5.0, **DEEP},
    {"epochs": 12, "weights": "all", "lr": 1e-3, "content_weight": 10.0, **DEEP},
    {"epochs": 20, "weights": "all", "lr": 3e-4, "content_weight": 5.0, **DEEP},
    {"epochs": 16, "weights": "lora", "lr": 6e-3, "content_weight": 1.0, **DEEP},
)
OURS_SECOND: tuple[Settings, ...] = ({"epochs": 10, "weights": "all", "lr": 6e-4, "content_weight": 2.0, **DEEP},)
RIVALS: dict[str, tuple[float, ...]] = {
    "textual_inversion": (0.005, 0.02, 0.08),
    "dreambooth": (3e-5, 1e-4, 3e-4),
    "pixels": (0.01, 0.03),
}
SHARE = 4


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.stylize.pilot", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("out") / "stylize-pilot")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = ad.differentiable(zoo.emoji(), memory="4GB")
    optimised = (FEATURES, load_extractor(FEATURES))
    meters = {MEASURED_BY: load_extractor(MEASURED_BY), ALSO_BY: zoo.judge()}
    rows: list[Settings] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else []
    for style, ours in zip(STYLES, (OURS, OURS_SECOND), strict=True):
        for changes in ours:
            plan = Plan((style,), test_prompts=PROMPTS, test_seeds=SEEDS, changes=tuple(changes.items()))
            study = Study(plan, generator, optimised, meters, zoo.judge(), options.work)
            _try(rows, study, style, "ours", changes, partial(_ours, study, style))
    plan = Plan(STYLES[:1], test_prompts=PROMPTS, test_seeds=SEEDS)
    evaluations = max(row["evaluations"] for row in rows if row["method"] == "ours") // SHARE
    for method, rates in RIVALS.items():
        for rate in rates:
            study = Study(_with_rate(plan, method, rate), generator, optimised, meters, zoo.judge(), options.work)
            make = partial(_rival, study, method, STYLES[0], evaluations)
            _try(rows, study, STYLES[0], method, {"rate": rate}, make)


def _pairs(study: Study) -> list[tuple[str, int]]:
    return study.plan.sets()["unseen prompts"]


def _try(
    rows: list[Settings],
    study: Study,
    style: Style,
    method: str,
    settings: Mapping[str, Any],
    make: Callable[[], tuple[Tensor, int]],
) -> None:
    """Make, measure and keep one row, unless it is there already."""
    key = json.loads(json.dumps({"style": style.name, "method": method, "settings": dict(settings)}))
    if any(all(row[k] == v for k, v in key.items()) for row in rows):
        return
    after, evaluations = make()
    before = paint(study.painter(), _pairs(study))
    reference = style_tensor(open_style(style.file), min(before.shape[-2:]))
    targets = {name: StyleTarget.of(network, reference) for name, network in study.meters.items()}
    found = {name: figures(m) for name, m in measured(study, targets, _pairs(study), before, after).items()}
    short = {
        name: {"drop": f["drop"]["value"], "kept": f["kept"]["value"], "both": f["both"]["share"]}
        for name, f in found.items()
    }
    rows.append({**key, "evaluations": evaluations, "figures": short})
    print(json.dumps(rows[-1]), flush=True)
    atomic_write(FILE, json.dumps(rows, indent=1) + "\n")


def _ours(study: Study, style: Style) -> tuple[Tensor, int]:
    name = "-".join(f"{key}={value}" for key, value in study.plan.changes).replace("/", "_") or "default"
    config = task_of(study, style).model_copy(update={"out": study.folder / style.name / name})
    result = stylize_model(config, study.generator)
    work = result.results["work"]
    return paint_tuned(study, result.weights, _pairs(study)), BRANCHES * (work["forwards"] + work["vjps"])


def _with_rate(plan: Plan, method: str, rate: float) -> Plan:
    field = {"textual_inversion": "token_rate", "dreambooth": "dreambooth_rate", "pixels": "pixel_rate"}[method]
    return replace(plan, **{field: rate})


def _rival(study: Study, method: str, style: Style, evaluations: int) -> tuple[Tensor, int]:
    pairs = _pairs(study)
    before = paint(study.painter(), pairs)
    reference = style_tensor(open_style(style.file), min(before.shape[-2:]))
    if method == "textual_inversion":
        return textual_inversion(study, reference, evaluations, pairs)[0], evaluations
    if method == "dreambooth":
        return dreambooth(study, reference, evaluations, pairs)[0], evaluations
    return optimise_pixels(study, reference, evaluations, before)[0], evaluations


if __name__ == "__main__":
    main()
