"""docs/inversion.md and its pictures, from the study's figures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from adjointdpm.formats import save_png
from adjointdpm.report import bar_chart, picture_sheet, to_pil
from adjointdpm.runs import atomic_write, load_tensors
from studies.inversion.design import Effect
from studies.template import page_template

SHOWN = {
    "plain": "plain prompt",
    "true": "true effect",
    "ours": "our embedding",
    "word": "best word",
    "denoising": "textual inversion",
}
PER_SHEET = 6


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def write_pictures(folder: Path, images: Path, effects: list[Effect], prompts: list[str]) -> None:
    """One sheet per effect (rows: methods, columns: test images), and one over all effects."""
    overview, names = [], []
    for effect in effects:
        pictures, _ = load_tensors(folder / effect.name / "pictures.safetensors")
        count = len(pictures["plain"])
        chosen = [round(k * (count - 1) / max(1, min(PER_SHEET, count) - 1)) for k in range(min(PER_SHEET, count))]
        rows = [to_pil(pictures[name][chosen].float() / 255) for name in SHOWN]
        heads = [prompts[i].replace(" background", "") for i in chosen]
        save_png(picture_sheet(rows, heads, list(SHOWN.values())), images / f"inversion_{effect.name}.png")
        few = torch.tensor(chosen[1:4])
        overview.append([p for name in ("plain", "ours", "true") for p in to_pil(pictures[name][few].float() / 255)])
        names.append(effect.title)
    columns = [text for name in ("plain prompt", "our embedding", "true effect") for text in (name, "", "")][
        : len(overview[0])
    ]
    save_png(picture_sheet(overview, columns, names, scale=1), images / "inversion.png")


def write_chart(images: Path, effects: list[Effect], results: dict[str, Any]) -> None:
    figures = results["effects"]
    series = {
        SHOWN[m]: [figures[e.name]["gap_closed"][m]["mse"]["median"] for e in effects]
        for m in ("ours", "word", "denoising")
    }
    groups = [effect.title.split(",")[0] for effect in effects]
    atomic_write(
        images / "inversion_gap.png",
        bar_chart(groups, series, "share of the gap closed", percent=True, limits=(-0.25, 1.1)),
    )


def page(results: dict[str, Any], effects: list[Effect]) -> str:
    """The page as Markdown: every figure in it comes from `results`."""
    figures = results["effects"]
    closed = {e.name: {m: v["mse"]["median"] for m, v in figures[e.name]["gap_closed"].items()} for e in effects}
    reached = [e for e in effects if closed[e.name]["ours"] >= 0.75]
    ours = [figures[e.name]["recognised"]["ours"] for e in effects]
    template = page_template(Path(__file__).parent, percent=percent, both=_both, still=_still, thousands="{:,}".format)
    return template.render(
        r=results,
        effects=effects,
        first=figures[effects[0].name],
        reached=reached,
        wordless=[e.title.split(",")[0].lower() for e in reached if not e.named],
        ahead={m: sum(closed[e.name]["ours"] > closed[e.name][m] for e in effects) for m in ("word", "denoising")},
        kept=sum(k["after"] for k in ours) / max(1, sum(k["before"] for k in ours)),
        median_seconds=sorted(figures[e.name]["seconds"]["ours"] for e in effects)[len(effects) // 2],
    )


def _both(f: dict[str, Any], method: str) -> str:
    closed = f["gap_closed"][method]
    return f"{percent(closed['mse']['median'])} / {percent(closed['features']['median'])}"


def _still(f: dict[str, Any], method: str) -> str:
    kept = f["recognised"][method]
    return percent(kept["after"] / kept["before"]) if kept["before"] else "–"
